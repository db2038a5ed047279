package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What ship makes in a folder: what `make image` and `make iso` make, from the same sources.
const (
	binaryFile  = "runink"
	stockFile   = "runink-engine"
	netFile     = "runink-engine-net"
	imageFolder = "image"
	metalFolder = "metal"
	isoFile     = "runink.iso"
)

var shipped = []string{
	binaryFile, stockFile, netFile, imageFolder + "/" + VmlinuzFile, imageFolder + "/" + InitramfsFile,
	imageFolder + "/" + ManifestFile, imageFolder + "/" + SumsFile,
	metalFolder + "/" + VmlinuzFile, metalFolder + "/" + InitramfsFile, metalFolder + "/" + ManifestFile, metalFolder + "/" + SumsFile,
	isoFile,
}

// other is what TestReproducible tells this binary when it is to be the other user: the
// user's folder, and the first user's downloaded modules.
const (
	otherFolder  = "RUNINK_TEST_IMAGE_OTHER_FOLDER"
	otherModules = "RUNINK_TEST_IMAGE_OTHER_MODULES"
)

// otherID is that user, and its group.
const otherID = 65534

// TestMain lets this binary be that user.
func TestMain(m *testing.M) {
	dir := os.Getenv(otherFolder)
	if dir == "" {
		os.Exit(m.Run())
	}
	err := becomeOther(dir, os.Getenv(otherModules))
	if err == nil {
		err = gently(func() error {
			return ship(context.Background(), filepath.Join(dir, "sources"), dir, filepath.Join(dir, "cache"), level)
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build as another user:", err)
		os.Exit(1)
	}
}

// becomeOther makes this process, which has a mount namespace of its own, the other user's.
// The modules stand in that user's home, too: their own folder others may not enter, and a
// copy of them would be half a gigabyte.
func becomeOther(dir, modules string) error {
	home := filepath.Join(dir, "home", "go", "pkg", "mod")
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"keep mounts to itself", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"show the modules", func() error { return unix.Mount(modules, home, "", unix.MS_BIND, "") }},
		{"make them read-only", func() error { return unix.Mount("", home, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "") }},
		{"leave groups", func() error { return syscall.Setgroups(nil) }},
		{"change group", func() error { return syscall.Setgid(otherID) }},
		{"change user", func() error { return syscall.Setuid(otherID) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	unix.Umask(0o077)
	return nil
}

// level is what `make image` packs with.
const level = 10

// ship builds the programs from the sources in src, the images that hold them, and a boot
// medium, into dir.
func ship(ctx context.Context, src, dir, cache string, level int) error {
	if err := shipCloud(ctx, src, dir, cache, level); err != nil {
		return err
	}
	if err := pack(ctx, dir, metalFolder, cache, level, MetalLock); err != nil {
		return err
	}
	return BuildISO(ctx, MediaOptions{Image: filepath.Join(dir, metalFolder), Out: filepath.Join(dir, isoFile)})
}

// shipCloud is the part of ship that virtual machines boot.
func shipCloud(ctx context.Context, src, dir, cache string, level int) error {
	for pkg, file := range map[string]string{"./cmd/runink": binaryFile, "./cmd/runink-engine": stockFile, "./cmd/runink-engine-net": netFile} {
		if err := GoBuild(ctx, src, pkg, filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return pack(ctx, dir, imageFolder, cache, level, KernelLock)
}

// pack builds an image of the programs in dir, with the kernel of a lock file.
func pack(ctx context.Context, dir, folder, cache string, level int, read func() (Lock, error)) error {
	lock, err := read()
	if err != nil {
		return err
	}
	_, err = Build(ctx, Options{
		Binary: filepath.Join(dir, binaryFile), Engine: filepath.Join(dir, stockFile), Out: filepath.Join(dir, folder), Cache: cache, Level: level,
		BuildTime: time.Unix(1_790_000_000, 0), Lock: lock, Log: slog.Default(),
	})
	return err
}

// gently does work that takes minutes of compiling beside tests that have deadlines: it
// takes what they leave.
func gently(work func() error) error {
	done := make(chan error)
	go func() {
		// The thread stays locked, and so ends with its priority here.
		runtime.LockOSThread()
		err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
		if err == nil {
			err = work()
		}
		done <- err
	}()
	return <-done
}

// copySources puts what git knows, as it is in the work tree, into dir: no build results,
// no history.
func copySources(t *testing.T, umask, dir string) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	clone := exec.CommandContext(t.Context(), "bash", "-c",
		`set -o pipefail; umask "$1"; git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -c | tar -x --no-same-permissions -C "$2"`, "clone", umask, dir)
	clone.Dir = ".."
	if out, err := clone.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// What ships is the same bytes when two users build it: from copies of the sources in
// different folders, with different umasks, time zones and homes, and once with
// this machine's caches of Go and once with none. Programs, both images (kernel, initramfs,
// manifest and sums) and the ISO, all of them.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries without a cache")
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: it builds as another user, too")
	}
	k, metal, ipxe := lockedKernel(t), metalKernel(t), lockedIPXE(t)
	here, there := t.TempDir(), newOther(t, k.SHA256, metal.SHA256, ipxe.SHA256)
	// Both copies first: who edits the work tree meanwhile changes neither.
	copySources(t, "022", filepath.Join(here, "a place with spaces"))

	// Side by side: what this user builds is done while the other still compiles.
	wait := shipAsOther(t, there)
	t.Setenv("TZ", "UTC")
	old := unix.Umask(0o022)
	err := gently(func() error {
		return ship(t.Context(), filepath.Join(here, "a place with spaces"), here, cache, level)
	})
	unix.Umask(old)
	check(t, errors.Join(err, wait()))

	for _, name := range shipped {
		a, err := os.ReadFile(filepath.Join(here, name))
		check(t, err)
		b, err := os.ReadFile(filepath.Join(there, name))
		check(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs: %s, %s", name, digest(a), digest(b))
		}
	}
	// They were two users, each with a umask of its own.
	for dir, want := range map[string]struct {
		uid  uint32
		perm fs.FileMode
	}{here: {0, 0o755}, there: {otherID, 0o700}} {
		fi, err := os.Stat(filepath.Join(dir, imageFolder))
		check(t, err)
		if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != want.uid || fi.Mode().Perm() != want.perm {
			t.Errorf("the image in %s was made by %+v with mode %o, want %+v", dir, fi.Sys(), fi.Mode().Perm(), want)
		}
	}
	for folder, k := range map[string]*Kernel{imageFolder: k, metalFolder: metal} {
		manifest, err := os.ReadFile(filepath.Join(there, folder, ManifestFile))
		check(t, err)
		initramfs, err := os.ReadFile(filepath.Join(here, folder, InitramfsFile))
		check(t, err)
		for _, want := range []string{k.Lock.SHA256, k.Lock.Version, `"locked": true`, digest(initramfs), `"name": "init"`, `"name": "` + EnginePath + `"`, `"name": "` + EnginePath + `-net"`} {
			if !strings.Contains(string(manifest), want) {
				t.Errorf("the manifest in %s lacks %s", folder, want)
			}
		}
		for _, what := range []string{ipxe.SHA256, `"name": "usr/lib/ipxe/undionly.kpxe"`, `"name": "usr/lib/ipxe/snponly.efi"`} {
			if has := strings.Contains(string(manifest), what); has != (folder == metalFolder) {
				t.Errorf("the manifest in %s has %s: %v", folder, what, has)
			}
		}
	}
}

// newOther makes a folder of the other user's, with the sources and the packages of these
// digests, and nothing else.
func newOther(t *testing.T, packages ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "reproducible-") // others may not enter t.TempDir
	check(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	copySources(t, "077", filepath.Join(dir, "sources"))
	for _, d := range []string{"cache", "home/go/pkg/mod", "tmp"} {
		check(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	for _, sum := range packages {
		deb, err := os.ReadFile(filepath.Join(cache, sum+".deb"))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, "cache", sum+".deb"), deb, 0o600))
	}
	check(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, otherID, otherID))
	}))
	return dir
}

// shipAsOther begins to build as the other user, with nothing of this one's environment;
// what it returns waits for the end.
func shipAsOther(t *testing.T, dir string) (wait func() error) {
	t.Helper()
	modules, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Dir = dir
	cmd.Env = []string{
		otherFolder + "=" + dir, otherModules + "=" + strings.TrimSpace(string(modules)),
		"HOME=" + filepath.Join(dir, "home"), "TMPDIR=" + filepath.Join(dir, "tmp"), "PATH=" + os.Getenv("PATH"),
		"USER=other", "LANG=C.UTF-8", "TZ=Pacific/Auckland", "GOPROXY=off", "GOTOOLCHAIN=local",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w\n%s", err, out.Bytes())
		}
		return nil
	}
}
