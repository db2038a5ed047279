package stage

// Name is what the stage is called in process lists, Env the variable that makes the binary
// run it: the number of the slice's descriptors.
const (
	Name = "runink-sandbox"
	Env  = "RUNINK_SANDBOX_STAGE"
)

// Config is what the parent tells the stage on the control socket: Encode's bytes, then a
// shutdown of that direction is not needed, as they begin with their length.
type Config struct {
	Hostname string
	Args     []string
	Env      []string

	// UID and GID are those of the slice inside its user namespace.
	UID, GID int

	// The descriptors from 3 on belong to the slice, as many as Env says. The control socket
	// is next; then, if BundleFD, a detached mount of the bundle; else BundlePath is its folder.
	BundleFD   bool
	BundlePath string

	TmpBytes int64
	Secrets  []Secret
	Rlimits  []Rlimit

	// CgroupNS: take a cgroup namespace of its own. LoUp: raise the loopback device (the
	// network namespace belongs to this user namespace).
	CgroupNS, LoUp bool

	Seccomp []Instruction

	// Leave names guards that are not put up: only tests set it, to show that what a guard
	// prevents succeeds without it.
	Leave []string
}

// Secret is one file.
type Secret struct {
	Name  string
	Value []byte
}

// Rlimit is one resource limit, soft and hard alike.
type Rlimit struct {
	Resource int
	Value    uint64
}

// Instruction is a struct sock_filter.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// What the stage answers: Ready right before it executes the bundle; then, or instead,
// Failed followed by the step and why. After Ready alone, the end of the stream means that
// the bundle runs.
const (
	Ready  = 'R'
	Failed = 'F'
)

// MaxConfig bounds an encoded Config, in bytes.
const MaxConfig = 1 << 20

// The encoding is our own, and plain: encoding/json would pull in, before the stage, the
// initialization of half the binary.

// Encode is c with its length in front.
func (c *Config) Encode() []byte {
	e := encoder{b: make([]byte, 4)}
	e.str(c.Hostname)
	e.strs(c.Args)
	e.strs(c.Env)
	e.num(uint64(c.UID))
	e.num(uint64(c.GID))
	e.flag(c.BundleFD)
	e.str(c.BundlePath)
	e.num(uint64(c.TmpBytes))
	e.num(uint64(len(c.Secrets)))
	for _, s := range c.Secrets {
		e.str(s.Name)
		e.str(string(s.Value))
	}
	e.num(uint64(len(c.Rlimits)))
	for _, l := range c.Rlimits {
		e.num(uint64(l.Resource))
		e.num(l.Value)
	}
	e.flag(c.CgroupNS)
	e.flag(c.LoUp)
	e.num(uint64(len(c.Seccomp)))
	for _, i := range c.Seccomp {
		e.num(uint64(i.Code)<<48 | uint64(i.JT)<<40 | uint64(i.JF)<<32 | uint64(i.K))
	}
	e.strs(c.Leave)
	n := len(e.b) - 4
	e.b[0], e.b[1], e.b[2], e.b[3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return e.b
}

// decode is the inverse of Encode, without the length; false: it is none.
func decode(b []byte) (*Config, bool) {
	d := decoder{b: b, ok: true}
	c := &Config{
		Hostname: d.str(), Args: d.strs(), Env: d.strs(), UID: int(d.num()), GID: int(d.num()),
		BundleFD: d.flag(), BundlePath: d.str(), TmpBytes: int64(d.num()),
	}
	for n := d.count(); n > 0; n-- {
		c.Secrets = append(c.Secrets, Secret{d.str(), []byte(d.str())})
	}
	for n := d.count(); n > 0; n-- {
		c.Rlimits = append(c.Rlimits, Rlimit{int(d.num()), d.num()})
	}
	c.CgroupNS, c.LoUp = d.flag(), d.flag()
	for n := d.count(); n > 0; n-- {
		v := d.num()
		c.Seccomp = append(c.Seccomp, Instruction{uint16(v >> 48), uint8(v >> 40), uint8(v >> 32), uint32(v)})
	}
	c.Leave = d.strs()
	return c, d.ok && len(d.b) == 0
}

type encoder struct{ b []byte }

func (e *encoder) num(v uint64) {
	for s := 56; s >= 0; s -= 8 {
		e.b = append(e.b, byte(v>>s))
	}
}

func (e *encoder) flag(v bool) {
	n := byte(0)
	if v {
		n = 1
	}
	e.b = append(e.b, n)
}

func (e *encoder) str(s string) {
	e.num(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) strs(s []string) {
	e.num(uint64(len(s)))
	for _, x := range s {
		e.str(x)
	}
}

// decoder reads on after an error, and gets zero values.
type decoder struct {
	b  []byte
	ok bool
}

func (d *decoder) take(n uint64) []byte {
	if !d.ok || n > uint64(len(d.b)) {
		d.ok = false
		return nil
	}
	x := d.b[:n]
	d.b = d.b[n:]
	return x
}

func (d *decoder) num() (v uint64) {
	for _, b := range d.take(8) {
		v = v<<8 | uint64(b)
	}
	return v
}

// count is a number of elements; each takes at least 8 bytes.
func (d *decoder) count() uint64 {
	n := d.num()
	if n > uint64(len(d.b))/8 {
		d.ok = false
		return 0
	}
	return n
}

func (d *decoder) flag() bool {
	x := d.take(1)
	return len(x) == 1 && x[0] == 1
}

func (d *decoder) str() string { return string(d.take(d.num())) }

func (d *decoder) strs() (s []string) {
	for n := d.count(); n > 0; n-- {
		s = append(s, d.str())
	}
	return s
}
