package netboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
)

// build writes an image as the image builder does, its sums last.
func build(t testing.TB, dir, what string) {
	t.Helper()
	var sums strings.Builder
	for _, name := range []string{initramfsFile, kernelFile} {
		data := bytes.Repeat([]byte(what+" "+name+"\n"), 20000)
		sum := sha256.Sum256(data)
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
		replace(t, filepath.Join(dir, name), data)
	}
	replace(t, filepath.Join(dir, sumsFile), []byte(sums.String()))
}

func replace(t testing.TB, file string, data []byte) {
	t.Helper()
	check(t, os.WriteFile(file+".new", data, 0o600))
	check(t, os.Rename(file+".new", file))
}

// site is the HTTP side with an image and answers of a test's own.
func site(t testing.TB, ask func(context.Context, Request) (Answer, error)) (*web, string) {
	t.Helper()
	dir := t.TempDir()
	build(t, dir, "first")
	log := slog.New(slog.DiscardHandler)
	i, err := openImages(dir, log)
	check(t, err)
	return &web{base: "http://10.0.0.5:7465", images: i, ask: ask, log: log}, dir
}

func get(t testing.TB, h *web, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	p, err := r.URL.Parse(path)
	check(t, err)
	r.URL = p
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := recorder{httptest.NewRecorder()}
	h.handler().ServeHTTP(w, r)
	return w.Result()
}

// recorder has the deadlines of a connection.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetWriteDeadline(time.Time) error { return nil }

func text(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	check(t, err)
	return string(b)
}

const asked = "/machine?mac=52-54-00-12-34-56&uuid=4c4c4544-0042-3510-8052-B4C04F4D4B32&platform=efi"

// boots answers that a machine is a node, with another token at each boot.
func boots() func(context.Context, Request) (Answer, error) {
	n := 0
	return func(_ context.Context, m Request) (Answer, error) {
		n++
		return Answer{Node: "n7", Words: []string{"runink.node=n7", fmt.Sprintf("runink.token=rt_%d", n)}, Say: []string{"machine " + m.MAC + " is node n7"}}, nil
	}
}

func TestScripts(t *testing.T) {
	var got Machine
	for _, tt := range []struct {
		name string
		ask  func(context.Context, Request) (Answer, error)
		want []string // in this order
		not  string
	}{
		{"boots", boots(), []string{
			"#!ipxe\n", "echo Runink: machine 52:54:00:12:34:56 is node n7\n", "kernel http://10.0.0.5:7465/sha256/",
			"/vmlinuz initrd=initramfs.cpio.zst console=tty0 console=ttyS0,115200 loglevel=5 panic=30 extra=1 runink.node=n7 runink.token=rt_1 || goto failed\n",
			"initrd http://10.0.0.5:7465/sha256/", "/initramfs.cpio.zst || goto failed\nboot || goto failed\n:failed\n", ":again\nsleep 5\nimgfree\nchain --autofree --replace http://10.0.0.5:7465/machine?mac=",
		}, ""},
		{"waits", func(context.Context, Request) (Answer, error) {
			return Answer{Say: []string{"not admitted", "type this"}}, nil
		}, []string{
			"#!ipxe\n", "echo Runink: not admitted\necho Runink: type this\n:again\nsleep 5\n",
			"chain --autofree --replace http://10.0.0.5:7465/machine?mac=52%3A54%3A00%3A12%3A34%3A56&platform=efi&uuid=4c4c4544-0042-3510-8052-b4c04f4d4b32 || goto again\n",
		}, "kernel"},
		{"nobody answers", func(context.Context, Request) (Answer, error) {
			return Answer{}, errs.E(errs.Unavailable, "call", "nobody answers; ${evil} || poweroff\nshell").WithHint("start one")
		}, []string{"#!ipxe\n", "echo Runink: call: nobody answers    evil     poweroff shell\necho Runink: start one\n", ":again\n"}, "kernel"},
		{"words that are iPXE's", func(context.Context, Request) (Answer, error) {
			return Answer{Node: "n7", Words: []string{"a=${net0/mac}"}}, nil
		}, []string{"what iPXE would take for its own\n", ":again\n"}, "kernel http"},
		{"too long a command line", func(context.Context, Request) (Answer, error) {
			return Answer{Node: "n7", Words: []string{strings.Repeat("a", 2000)}}, nil
		}, []string{"the kernel command line of node n7 has 2", ":again\n"}, "kernel http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, _ := site(t, func(ctx context.Context, m Request) (Answer, error) {
				got = m.Machine
				return tt.ask(ctx, m)
			})
			h.more = []string{"extra=1"}
			r := get(t, h, asked)
			rest := text(t, r)
			if r.StatusCode != 200 || r.Header.Get("Cache-Control") != "no-store" || tt.not != "" && strings.Contains(rest, tt.not) {
				t.Errorf("%s %v\n%s", r.Status, r.Header, rest)
			}
			for _, want := range tt.want {
				i := strings.Index(rest, want)
				if i < 0 {
					t.Fatalf("no %q in what is left:\n%s", want, rest)
				}
				rest = rest[i+len(want):]
			}
			if want := (Machine{"52:54:00:12:34:56", "4c4c4544-0042-3510-8052-b4c04f4d4b32", UEFI}); got != want {
				t.Errorf("asked for %+v, want %+v", got, want)
			}
		})
	}
}

func TestRequestsThatAreNoMachine(t *testing.T) {
	asks := 0
	h, _ := site(t, func(context.Context, Request) (Answer, error) { asks++; return Answer{}, errors.New("no") })
	for name, tt := range map[string]struct {
		path string
		want int
	}{
		"no MAC address":       {"/machine?platform=efi", 400},
		"a strange one":        {"/machine?mac=52-54-00-12-34&platform=efi", 400},
		"a strange UUID":       {"/machine?mac=52-54-00-12-34-56&uuid=x&platform=efi", 400},
		"a strange platform":   {"/machine?mac=52-54-00-12-34-56&platform=riscv", 400},
		"another path":         {"/", 404},
		"a folder":             {"/sha256/", 404},
		"a file that is none":  {"/sha256/" + strings.Repeat("0", 64) + "/vmlinuz", 404},
		"a file of the system": {"/sha256/../../../../etc/passwd", 404},
	} {
		t.Run(name, func(t *testing.T) {
			r := get(t, h, tt.path)
			if r.StatusCode != tt.want && r.StatusCode != http.StatusMovedPermanently && r.StatusCode != http.StatusTemporaryRedirect {
				t.Errorf("%s: %s", tt.path, r.Status)
			}
		})
	}
	if asks > 0 {
		t.Errorf("the cluster was asked %d times", asks)
	}
	// Firmware without a UUID says zeros, or ones.
	var m Machine
	h.ask = func(_ context.Context, got Request) (Answer, error) { m = got.Machine; return Answer{}, nil }
	for _, u := range []string{"", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"} {
		if get(t, h, "/machine?mac=52-54-00-12-34-56&platform=pcbios&uuid="+u); m.MAC == "" || m.UUID != "" || m.Firmware != BIOS {
			t.Errorf("%q: %+v", u, m)
		}
	}
}

var named = regexp.MustCompile(`http://10\.0\.0\.5:7465(/sha256/[0-9a-f]{64}/[a-z.]+)`)

// names are the files that a script has a machine fetch.
func names(t *testing.T, h *web) []string {
	t.Helper()
	var out []string
	for _, m := range named.FindAllStringSubmatch(text(t, get(t, h, asked)), -1) {
		out = append(out, m[1])
	}
	if len(out) != 2 {
		t.Fatalf("a script names %v", out)
	}
	return out
}

// isWhat checks that a name's content is of a build, and that its digest is in its name.
func isWhat(t *testing.T, h *web, name, build string) {
	t.Helper()
	r := get(t, h, name)
	data := text(t, r)
	sum := sha256.Sum256([]byte(data))
	if r.StatusCode != 200 || !strings.HasPrefix(data, build+" ") || !strings.Contains(name, hex.EncodeToString(sum[:])) {
		t.Errorf("%s: %s, %.20q, sha256 %x", name, r.Status, data, sum)
	}
}

// A build that replaces the files in the middle of a machine's boot changes nothing for it:
// its names go on to mean what they meant, in one piece or several. The next boot gets the new
// names. What is half-written, or not what the sums say, is never served.
func TestImageReplacedDuringABoot(t *testing.T) {
	h, dir := site(t, boots())
	now := time.Unix(1000, 0)
	h.images.now = func() time.Time { return now }
	old := names(t, h)
	half := get(t, h, old[0], "Range", "bytes=0-99999")
	first := text(t, half)
	if half.StatusCode != http.StatusPartialContent || len(first) != 100000 {
		t.Fatalf("the first part: %s, %d bytes", half.Status, len(first))
	}

	// Written in place, which no builder of ours does: neither name nor content follow.
	check(t, os.WriteFile(filepath.Join(dir, kernelFile), []byte("half a ker"), 0o600))
	if got := names(t, h); got[0] != old[0] {
		t.Errorf("a half-written kernel has the name %s", got[0])
	}
	isWhat(t, h, old[0], "first")
	// A build that is whole but for its sums, and then the sums alone.
	build(t, dir, "second")
	sums, err := os.ReadFile(filepath.Join(dir, sumsFile))
	check(t, err)
	replace(t, filepath.Join(dir, sumsFile), bytes.Replace(sums, sums[:8], []byte("00000000"), 1))
	if got := names(t, h); got[0] != old[0] || got[1] != old[1] {
		t.Errorf("a build whose sums are wrong is served as %v", got)
	}
	replace(t, filepath.Join(dir, sumsFile), sums)
	next := names(t, h)
	if next[0] == old[0] || next[1] == old[1] {
		t.Errorf("the new build has names of the old: %v, %v", old, next)
	}
	for _, n := range next {
		isWhat(t, h, n, "second")
	}
	rest := get(t, h, old[0], "Range", "bytes=100000-", "If-Range", half.Header.Get("ETag"))
	if rest.StatusCode != http.StatusPartialContent {
		t.Fatalf("the rest: %s", rest.Status)
	}
	sum := sha256.Sum256([]byte(first + text(t, rest)))
	if !strings.Contains(old[0], hex.EncodeToString(sum[:])) {
		t.Error("the parts of one name are not one file")
	}

	// Nobody was told of the first build for an hour, and one still reads it.
	_, done, ok := h.images.open(strings.Split(old[1], "/")[2], initramfsFile)
	if !ok {
		t.Fatal("the old initramfs is gone")
	}
	now = now.Add(2 * keepFor)
	build(t, dir, "third")
	names(t, h)
	isWhat(t, h, old[1], "first")
	done()
	now = now.Add(2 * keepFor)
	build(t, dir, "fourth")
	names(t, h)
	if r := get(t, h, old[1]); r.StatusCode != 404 || !strings.Contains(text(t, r), "the machine's script names the present ones") {
		t.Errorf("a build that nobody uses: %s", r.Status)
	}
	// However many builds there are, few are kept.
	for i := range 10 {
		build(t, dir, fmt.Sprint("again", i))
		names(t, h)
	}
	if n := len(h.images.known); n > keepImages {
		t.Errorf("%d images are kept", n)
	}
	// The folder goes away, and the last build stays.
	check(t, os.RemoveAll(dir))
	isWhat(t, h, names(t, h)[0], "again9")
}

// A client that stops in the middle of a file costs nobody else anything.
func TestHTTPClientThatStopsHalfWay(t *testing.T) {
	h, _ := site(t, boots())
	s := httptest.NewServer(h.handler())
	defer s.Close()
	name := names(t, h)[0]
	stopped, err := http.Get(s.URL + name)
	check(t, err)
	if _, err := io.ReadFull(stopped.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	whole, err := http.Get(s.URL + name)
	check(t, err)
	data, err := io.ReadAll(whole.Body)
	sum := sha256.Sum256(data)
	if err != nil || !strings.Contains(name, hex.EncodeToString(sum[:])) {
		t.Errorf("beside it: %d bytes, %v", len(data), err)
	}
	check(t, errors.Join(stopped.Body.Close(), whole.Body.Close()))
	for { // until the server has seen that it is gone
		h.images.mu.Lock()
		uses := h.images.known[0].uses
		h.images.mu.Unlock()
		if uses == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNoImage(t *testing.T) {
	dir := t.TempDir()
	_, err := openImages(dir, slog.New(slog.DiscardHandler))
	if errs.KindOf(err) != errs.NotFound || errs.HintOf(err) == "" {
		t.Errorf("no image: %v", err)
	}
	build(t, dir, "first")
	check(t, os.WriteFile(filepath.Join(dir, kernelFile), []byte("another kernel"), 0o600))
	if _, err = openImages(dir, slog.New(slog.DiscardHandler)); errs.KindOf(err) != errs.Corrupt || !strings.Contains(err.Error(), "vmlinuz has sha256") {
		t.Errorf("a wrong kernel: %v", err)
	}
}

// archive writes an install archive of the image that build made of what; extra is beside it.
func archive(t testing.TB, dir, what, extra string) []byte {
	t.Helper()
	var b []byte
	for _, name := range []string{initramfsFile, kernelFile} {
		b = append(append(b, "070701 "...), bytes.Repeat([]byte(what+" "+name+"\n"), 20000)...)
	}
	b = append(b, extra...)
	replace(t, filepath.Join(dir, ArchiveFile), b)
	return b
}

// A machine whose words ask it to install itself gets the install archive behind its
// initramfs, in one file; others do not. One that there is no archive for waits, and is told
// what to type; one that is told of an archive gets that one, whatever replaces it.
func TestInstallArchive(t *testing.T) {
	words, asks := []string{"runink.node=n7", "runink.install=path:/dev/sda", "runink.token=rt_1"}, 0
	h, dir := site(t, func(_ context.Context, m Request) (Answer, error) {
		if m.CannotInstall != nil && installs(words) {
			return Answer{}, m.CannotInstall // as the cluster has it: it makes no token for this
		}
		asks++
		return Answer{Node: "n7", Words: words}, nil
	})
	ask := func() string { t.Helper(); return text(t, get(t, h, asked)) }
	path := regexp.MustCompile(`(?m)^initrd http://10\.0\.0\.5:7465(/sha256/[0-9a-f]{64}/\S+) \|\| goto failed$`)
	told := func(script string) string {
		t.Helper()
		all := path.FindAllStringSubmatch(script, -1)
		if len(all) != 1 || !strings.Contains(script, " initrd="+filepath.Base(all[0][1])+" ") {
			t.Fatalf("not one initrd, or the kernel does not hear of it:\n%s", script)
		}
		return all[0][1]
	}
	served := func(path string) []byte { t.Helper(); return []byte(text(t, get(t, h, path))) }
	refused := func(name, want string) {
		t.Helper()
		script := ask()
		if strings.Contains(script, "kernel http") || !strings.Contains(script, want) || !strings.Contains(script, "bin/runink-image archive -image ") || !strings.Contains(script, ":again\n") {
			t.Errorf("%s: the machine is told\n%s", name, script)
		}
	}
	refused("without an archive", "no such file")
	archive(t, dir, "older", "")
	for range 3 {
		refused("with another image's", "is of another image than the one in its folder")
	}
	if asks != 0 {
		t.Errorf("%d answers were made that nobody could use", asks)
	}
	first := archive(t, dir, "first", "")
	initramfs, err := os.ReadFile(filepath.Join(dir, initramfsFile))
	check(t, err)
	one := told(ask())
	got := served(one)
	behind := len(initramfs)
	for behind%4 != 0 {
		behind++
	}
	if !bytes.HasPrefix(got, initramfs) || len(got) != behind+len(first) || !bytes.Equal(got[behind:], first) || len(bytes.Trim(got[len(initramfs):behind], "\x00")) != 0 {
		t.Errorf("of %d bytes and %d, %d are served", len(initramfs), len(first), len(got))
	}
	if again := told(ask()); again != one {
		t.Errorf("the same archive is %s, then %s", one, again)
	}
	archive(t, dir, "first", "and something new")
	if two := told(ask()); two == one || len(served(two)) <= len(got) {
		t.Errorf("a new archive is %s, the old one was %s", two, one)
	}
	if now := served(one); !bytes.Equal(now, got) {
		t.Error("who was told of the older archive gets another one")
	}
	words = words[:1]
	if plain := told(ask()); filepath.Base(plain) != initramfsFile || !bytes.Equal(served(plain), initramfs) {
		t.Errorf("who does not install gets %s", plain)
	}
	words = []string{"runink.node=n7", "runink.install=path:/dev/sda", "runink.token=rt_1"}
	if again := told(ask()); filepath.Base(again) != installFile {
		t.Errorf("who installs gets %s", again)
	}
	check(t, os.Remove(filepath.Join(dir, ArchiveFile)))
	refused("with an archive that was taken away", "no such file")
	archive(t, dir, "first", "")
	build(t, dir, "second")
	refused("with an archive of the image before", "is of another image than the one in its folder")
}

func present(i *images) Image {
	img, _ := i.present()
	return img
}

// What is wrong with the image folder is in the log once, until it is something else or is
// over, however many machines ask meanwhile.
func TestHalfBuiltImageIsSaidOnce(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "first")
	var log bytes.Buffer
	i, err := openImages(dir, slog.New(slog.NewTextHandler(&log, nil)))
	check(t, err)
	h := &web{base: "http://10.0.0.5:7465", images: i, ask: boots(), log: slog.New(slog.DiscardHandler)}
	first := names(t, h)
	said := func(what string, want int) {
		t.Helper()
		for range 3 {
			if got := names(t, h); got[0] != first[0] {
				t.Errorf("%s: a machine is sent to %v", what, got)
			}
		}
		if n := strings.Count(log.String(), "holds no whole image"); n != want {
			t.Errorf("%s: said %d times, want %d:\n%s", what, n, want, log.String())
		}
	}
	said("whole", 0)
	sums, err := os.ReadFile(filepath.Join(dir, sumsFile))
	check(t, err)
	check(t, os.Remove(filepath.Join(dir, sumsFile)))
	said("without sums", 1)
	replace(t, filepath.Join(dir, sumsFile), append([]byte("0"), sums[1:]...))
	said("with sums of another", 2)
	replace(t, filepath.Join(dir, sumsFile), sums)
	said("whole again", 2)
	check(t, os.Remove(filepath.Join(dir, sumsFile)))
	said("without sums again", 3)
}

// FuzzHTTP: whatever is asked for, what is served under a digest has it, and scripts hold no
// line that somebody else wrote.
func FuzzHTTP(f *testing.F) {
	h, _ := site(f, func(_ context.Context, m Request) (Answer, error) {
		return Answer{Say: []string{m.MAC, m.UUID}}, nil
	})
	img := present(h.images)
	f.Add(img.Kernel.path(), "")
	f.Add("/machine", "mac=52-54-00-12-34-56&uuid=&platform=efi")
	f.Add("/sha256/../boot.ipxe", "a=b")
	f.Add("/sha256/"+img.Kernel.Digest+"/"+initramfsFile, "%")
	line := regexp.MustCompile(`^(#!ipxe|echo Runink: [0-9a-f:-]*|:again|sleep 5|imgfree|chain --autofree --replace http://10\.0\.0\.5:7465/machine\?[0-9a-zA-Z%&=.-]* \|\| goto again)$`)
	f.Fuzz(func(t *testing.T, path, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path, r.URL.RawQuery = path, query
		w := recorder{httptest.NewRecorder()}
		h.handler().ServeHTTP(w, r)
		body := w.Body.Bytes()
		if w.Code != 200 {
			return
		}
		switch {
		case path == "/machine":
			for l := range strings.Lines(string(body)) {
				if !line.MatchString(strings.TrimSuffix(l, "\n")) {
					t.Errorf("a script has the line %q", l)
				}
			}
		case path == "/boot.ipxe":
		default:
			if sum := sha256.Sum256(body); path != "/sha256/"+hex.EncodeToString(sum[:])+"/"+filepath.Base(path) {
				t.Errorf("%q has sha256 %x", path, sum)
			}
		}
	})
}
