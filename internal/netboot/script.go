package netboot

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// Machine is what a machine says about itself when it asks for its script.
type Machine struct {
	MAC      string // as ParseMAC of the API reads it; nobody has checked it
	UUID     string // of its firmware; empty: it has none
	Firmware Firmware
}

// Request is a machine that asks what it boots.
type Request struct {
	Machine
	// CannotInstall is why nothing can be served that it would install itself from; nil: it can.
	// A machine whose answer would ask it to must get none then.
	CannotInstall error
}

// Answer says what a machine boots as.
type Answer struct {
	// Words are its kernel command line; nil: it boots nothing now, and asks again.
	Words []string
	Node  string
	// Say is what it shows on its screen, line by line: why it waits, or what it is.
	Say []string
}

// installs reports whether words ask a machine to install itself.
func installs(words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, nodecfg.Prefix+"install=") })
}

// consoleWords make kernel and PID 1 write to the screen and to the first serial line, and a
// kernel that gives up start again, as on media.
const consoleWords = "console=tty0 console=ttyS0,115200 loglevel=5 panic=30"

// maxCommandLine is what the kernel keeps of a command line on amd64.
const maxCommandLine = 2047

// pause is how long a machine waits before it asks again, in seconds.
const pause = 5

// firstScript is what iPXE is pointed at: only iPXE knows the UUID in the form that people
// read, and the card that it boots with.
func firstScript(base string) string {
	ask := base + "/machine?mac=${netX/mac:hexhyp}&uuid=${uuid}&platform=${platform}"
	return lines("#!ipxe", ":ask", "chain --autofree --replace "+ask+" ||",
		echo("the netboot service does not answer. This machine asks again"), fmt.Sprintf("sleep %d", pause), "goto ask")
}

// askAgain ends a script by fetching the machine's script anew.
func askAgain(base string, m Machine) string {
	q := url.Values{"mac": {m.MAC}, "uuid": {m.UUID}, "platform": {platformOf(m.Firmware)}}
	return lines(":again", fmt.Sprintf("sleep %d", pause), "imgfree", "chain --autofree --replace "+base+"/machine?"+q.Encode()+" || goto again")
}

// waitScript shows why a machine waits, and lets it ask again.
func waitScript(base string, m Machine, say ...string) string {
	out := []string{"#!ipxe"}
	for _, s := range say {
		out = append(out, echo(s))
	}
	return lines(out...) + askAgain(base, m)
}

// bootScript boots an image with a command line. A transfer that fails makes the machine ask
// again, and so get another token: this one may have been seen.
func bootScript(base string, m Machine, img Image, a Answer, more []string) (string, error) {
	initrd := img.Initramfs
	if img.Install != nil && installs(a.Words) {
		initrd = img.Install
	}
	words := strings.Join(append(append([]string{consoleWords}, more...), a.Words...), " ")
	cmdline := "initrd=" + initrd.Name + " " + words
	if len(cmdline) > maxCommandLine {
		return "", errs.E(errs.Invalid, "write script", "the kernel command line of node %s has %d bytes, and %d are possible", a.Node, len(cmdline), maxCommandLine)
	}
	if strings.ContainsAny(words, "$\n\r") || strings.Contains(words, "||") || strings.Contains(words, "&&") {
		return "", errs.E(errs.Invalid, "write script", "the kernel command line of node %s has what iPXE would take for its own", a.Node)
	}
	out := []string{"#!ipxe"}
	for _, s := range a.Say {
		out = append(out, echo(s))
	}
	out = append(out,
		"kernel "+base+img.Kernel.path()+" "+cmdline+" || goto failed",
		"initrd "+base+initrd.path()+" || goto failed",
		"boot || goto failed",
		":failed", echo("this machine could not fetch its image. It asks again"))
	return lines(out...) + askAgain(base, m), nil
}

// path is where a file is served: its name is its content's.
func (b *Blob) path() string { return "/sha256/" + b.Digest + "/" + b.Name }

// echo shows a line. Only what iPXE's shell takes for text is left of it.
func echo(text string) string {
	return "echo Runink: " + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" .,:_/()+=@`-", r):
			return r
		}
		return ' '
	}, text)
}

func lines(l ...string) string { return strings.Join(l, "\n") + "\n" }

// platformOf is iPXE's name of a firmware, and firmwareFrom its inverse.
func platformOf(f Firmware) string {
	if f == UEFI {
		return "efi"
	}
	return "pcbios"
}

func firmwareFrom(platform string) (Firmware, bool) {
	switch platform {
	case "efi":
		return UEFI, true
	case "pcbios":
		return BIOS, true
	}
	return "", false
}
