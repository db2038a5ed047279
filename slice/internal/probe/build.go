package probe

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Name is the command's file name in a bundle; a program whose Args[0] ends in it must call
// Main first thing (see Hook).
const Name = "probe"

// Hook makes any test binary a probe: TestMain calls it before everything else.
func Hook() {
	if filepath.Base(os.Args[0]) == Name {
		os.Exit(Main(os.Args[1:]))
	}
}

// Bundle makes a folder that can be a slice's bundle, with the probe in it: this test binary
// where it is static (as in a VM, where there is no compiler), else one built for it.
func Bundle(dir string) error {
	to := filepath.Join(dir, Name)
	static, err := isStatic("/proc/self/exe")
	if err != nil {
		return err
	}
	if static {
		err = copyFile(to, "/proc/self/exe")
	} else {
		c := exec.Command("go", "build", "-o", to, "github.com/runink/runink/slice/internal/probe/probe")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = c.CombinedOutput(); err != nil {
			err = fmt.Errorf("build the probe: %w\n%s", err, out)
		}
	}
	if err == nil {
		err = os.Chmod(to, 0o555)
	}
	if err == nil {
		err = os.Chmod(dir, 0o555)
	}
	return err
}

func isStatic(file string) (bool, error) {
	f, err := elf.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func lockThread() { runtime.LockOSThread() }
