package netboot

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/runink/runink/internal/errs"
)

// Bounds on HTTP.
const (
	httpConns  = 256
	httpHeader = 10 * time.Second // for a request's header, and for idle connections
	httpStall  = time.Minute      // for one piece of an answer
	askTimeout = 20 * time.Second // for Config.Ask: iPXE gives up on a silent server some time after
)

// web is the HTTP side.
type web struct {
	base   string // URL without a path
	images *images
	more   []string // words for every machine's kernel
	ask    func(context.Context, Request) (Answer, error)
	log    *slog.Logger
	waits  news
}

// news tells a machine that waits for another reason than before, which is worth a line in
// the log, from one that asks the same every few seconds. It knows a bounded number of them.
type news struct {
	mu  sync.Mutex
	why map[string]string // by MAC address
}

const newsOf = 256

// of reports whether why is news of a machine; "" forgets it.
func (n *news) of(mac, why string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	old, ok := n.why[mac]
	switch {
	case why == "":
		delete(n.why, mac)
		return true
	case ok && old == why, !ok && len(n.why) >= newsOf:
		return false
	}
	if n.why == nil {
		n.why = map[string]string{}
	}
	n.why[mac] = why
	return true
}

func (h *web) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot.ipxe", h.first)
	mux.HandleFunc("GET /machine", h.machine)
	mux.HandleFunc("GET /sha256/{digest}/{name}", h.blob)
	return mux
}

// first is the script that every iPXE gets.
func (h *web) first(w http.ResponseWriter, _ *http.Request) { h.script(w, firstScript(h.base)) }

// script writes a script, which nobody may keep: it may hold a token.
func (h *web) script(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	w.Header().Set("Cache-Control", "no-store")
	if _, err := io.WriteString(w, text); err != nil {
		h.log.Debug("script not sent", "err", err)
	}
}

var (
	macForm  = regexp.MustCompile(`^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$`)
	uuidForm = regexp.MustCompile(`^([0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?$`)
)

// readMachine reads who asks. Whether there is such a machine is not for us to say.
func readMachine(r *http.Request) (Machine, error) {
	q := r.URL.Query()
	firmware, ok := firmwareFrom(q.Get("platform"))
	m := Machine{MAC: strings.ToLower(strings.ReplaceAll(q.Get("mac"), "-", ":")), UUID: strings.ToLower(q.Get("uuid")), Firmware: firmware}
	if strings.Trim(m.UUID, "0-") == "" || strings.Trim(m.UUID, "f-") == "" {
		m.UUID = "" // how firmware says that it has none
	}
	const op = "read machine"
	switch {
	case !ok:
		return m, errs.E(errs.Invalid, op, "it is neither efi nor pcbios").WithField("platform")
	case !macForm.MatchString(m.MAC):
		return m, errs.E(errs.Invalid, op, "it is no MAC address").WithField("mac")
	case !uuidForm.MatchString(m.UUID):
		return m, errs.E(errs.Invalid, op, "it is no UUID").WithField("uuid")
	}
	return m, nil
}

// machine answers with what a machine boots now. The token in it is minted for this answer.
func (h *web) machine(w http.ResponseWriter, r *http.Request) {
	m, err := readMachine(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	log := h.log.With("mac", m.MAC, "uuid", m.UUID, "firmware", m.Firmware, "address", r.RemoteAddr)
	// Whoever asks for an answer gets a token with it: what could be wrong is found out before.
	img, cannot := h.images.present()
	a, err := h.ask(ctx, Request{Machine: m, CannotInstall: cannot})
	if err == nil && a.Words == nil {
		if why := strings.Join(a.Say, "; "); h.waits.of(m.MAC, why) {
			log.Info("a machine waits", "why", why)
		}
		h.script(w, waitScript(h.base, m, a.Say...))
		return
	}
	var text string
	if err == nil && installs(a.Words) {
		if err = cannot; err == nil { // who is told that it cannot may answer so all the same
			img, err = h.images.forInstall(img)
		}
	}
	if err == nil {
		text, err = bootScript(h.base, m, img, a, h.more)
	}
	if err != nil {
		// The machine's screen is where somebody looks.
		if h.waits.of(m.MAC, err.Error()) {
			log.Warn("a machine cannot be booted now", "err", err, "hint", errs.HintOf(err))
		}
		h.script(w, waitScript(h.base, m, err.Error(), errs.HintOf(err), "this machine asks again"))
		return
	}
	h.waits.of(m.MAC, "")
	log.Info("a machine boots", "node", a.Node)
	h.script(w, text)
}

// blob serves a file under its digest, whole or in parts.
func (h *web) blob(w http.ResponseWriter, r *http.Request) {
	data, done, ok := h.images.open(r.PathValue("digest"), r.PathValue("name"))
	if !ok {
		http.Error(w, "there is no such file, or no more; the machine's script names the present ones", http.StatusNotFound)
		return
	}
	defer done()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("ETag", `"`+r.PathValue("digest")+`"`)
	http.ServeContent(&unstalled{w: w, c: http.NewResponseController(w)}, r, "", time.Time{}, data)
}

// unstalled gives each piece of an answer its own time: a client may be slow, but not gone.
// It is no io.ReaderFrom, which would be one piece.
type unstalled struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (u *unstalled) Header() http.Header    { return u.w.Header() }
func (u *unstalled) WriteHeader(status int) { u.w.WriteHeader(status) }

func (u *unstalled) Write(p []byte) (int, error) {
	if err := u.c.SetWriteDeadline(time.Now().Add(httpStall)); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// serve answers on l until stop is closed; transfers under way are cut then.
func (h *web) serve(stop <-chan struct{}, l net.Listener) error {
	s := &http.Server{
		Handler: h.handler(), ReadHeaderTimeout: httpHeader, ReadTimeout: httpHeader, IdleTimeout: httpHeader, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(netutil.LimitListener(l, httpConns)) }()
	select {
	case err := <-ended:
		return errs.E(errs.Internal, "serve HTTP", "%w", err)
	case <-stop:
		err := s.Close()
		<-ended
		return err
	}
}
