package stage

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestConfigSurvivesItsEncoding(t *testing.T) {
	gen := rapid.Make[Config]()
	rapid.Check(t, func(t *rapid.T) {
		c := gen.Draw(t, "config")
		b := c.Encode()
		d, ok := decode(b[4:])
		if !ok || len(b)-4 != int(b[0])<<24|int(b[1])<<16|int(b[2])<<8|int(b[3]) {
			t.Fatalf("%+v does not decode", c)
		}
		if again := d.Encode(); string(again) != string(b) {
			t.Fatalf("%+v came back as %+v", c, d)
		}
		cut := rapid.IntRange(4, len(b)-1).Draw(t, "cut")
		if _, ok := decode(b[4:cut]); ok {
			t.Fatal("a truncated one decodes")
		}
	})
}

func FuzzDecode(f *testing.F) {
	c := Config{Args: []string{"/bundle/x"}, Secrets: []Secret{{"a", []byte("b")}}, Rlimits: []Rlimit{{1, 2}}, Seccomp: []Instruction{{1, 2, 3, 4}}}
	f.Add(c.Encode()[4:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := decode(b)
		if !ok {
			return
		}
		d, ok := decode(c.Encode()[4:])
		if !ok || !reflect.DeepEqual(c, d) {
			t.Fatalf("%+v, then %+v", c, d)
		}
	})
}

func TestConstants(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"open_tree", sysOpenTree, unix.SYS_OPEN_TREE},
		{"move_mount", sysMoveMount, unix.SYS_MOVE_MOUNT},
		{"fsopen", sysFsopen, unix.SYS_FSOPEN},
		{"fsconfig", sysFsconfig, unix.SYS_FSCONFIG},
		{"fsmount", sysFsmount, unix.SYS_FSMOUNT},
		{"close_range", sysCloseRange, unix.SYS_CLOSE_RANGE},
		{"mount_setattr", sysMountSetattr, unix.SYS_MOUNT_SETATTR},
		{"CLONE_NEWCGROUP", cloneNewCgroup, unix.CLONE_NEWCGROUP},
		{"AT_FDCWD", -atFdcwd, -unix.AT_FDCWD},
		{"AT_EMPTY_PATH", atEmptyPath, unix.AT_EMPTY_PATH},
		{"AT_RECURSIVE", atRecursive, unix.AT_RECURSIVE},
		{"OPEN_TREE_CLONE", openTreeClone, unix.OPEN_TREE_CLONE},
		{"OPEN_TREE_CLOEXEC", openTreeCloexec, unix.OPEN_TREE_CLOEXEC},
		{"MOVE_MOUNT_F_EMPTY_PATH", moveMountFromEmptyPath, unix.MOVE_MOUNT_F_EMPTY_PATH},
		{"FSOPEN_CLOEXEC", fsopenCloexec, unix.FSOPEN_CLOEXEC},
		{"FSMOUNT_CLOEXEC", fsmountCloexec, unix.FSMOUNT_CLOEXEC},
		{"FSCONFIG_SET_STRING", fsconfigSetString, unix.FSCONFIG_SET_STRING},
		{"FSCONFIG_CMD_CREATE", fsconfigCreate, unix.FSCONFIG_CMD_CREATE},
		{"MOUNT_ATTR_RDONLY", attrRdonly, unix.MOUNT_ATTR_RDONLY},
		{"MOUNT_ATTR_NOSUID", attrNosuid, unix.MOUNT_ATTR_NOSUID},
		{"MOUNT_ATTR_NODEV", attrNodev, unix.MOUNT_ATTR_NODEV},
		{"MOUNT_ATTR_NOEXEC", attrNoexec, unix.MOUNT_ATTR_NOEXEC},
		{"CLOSE_RANGE_CLOEXEC", closeRangeCloexec, unix.CLOSE_RANGE_CLOEXEC},
		{"PR_CAPBSET_DROP", prCapbsetDrop, unix.PR_CAPBSET_DROP},
		{"PR_SET_SECUREBITS", prSetSecurebits, unix.PR_SET_SECUREBITS},
		{"PR_SET_SECCOMP", prSetSeccomp, unix.PR_SET_SECCOMP},
		{"PR_SET_PDEATHSIG", prSetPdeathsig, unix.PR_SET_PDEATHSIG},
		{"PR_SET_NO_NEW_PRIVS", prSetNoNewPrivs, unix.PR_SET_NO_NEW_PRIVS},
		{"PR_CAP_AMBIENT", prCapAmbient, unix.PR_CAP_AMBIENT},
		{"PR_CAP_AMBIENT_CLEAR_ALL", prCapAmbientClear, unix.PR_CAP_AMBIENT_CLEAR_ALL},
		{"SECCOMP_MODE_FILTER", seccompModeFilter, unix.SECCOMP_MODE_FILTER},
		{"_LINUX_CAPABILITY_VERSION_3", capVersion3, unix.LINUX_CAPABILITY_VERSION_3},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
}
