package rest

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
)

const (
	jsonType  = "application/json"
	bytesType = "application/octet-stream"
)

// paced reads a body whose bytes have to arrive at a pace: it sets the connection's read
// deadline ahead of each read. A body that comes too slowly, or is longer than max, ends
// with an error that says so.
type paced struct {
	body  io.ReadCloser
	rc    *http.ResponseController
	begun time.Time
	grace time.Duration
	rate  int64
	max   int64
	n     int64
}

var (
	errSlow  = errors.New("the body arrives too slowly")
	errLarge = errors.New("the body is too large")
	errCut   = errors.New("the body ends before its length")
)

func (g *Gateway) pace(w http.ResponseWriter, r *http.Request, limit int64) *paced {
	return &paced{
		body: r.Body, rc: http.NewResponseController(w), begun: time.Now(),
		grace: g.limits.Grace, rate: g.limits.Rate, max: limit,
	}
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	earned := time.Duration(p.n) * time.Second / time.Duration(p.rate)
	if err := p.rc.SetReadDeadline(p.begun.Add(p.grace + earned)); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.n += int64(n)
	switch {
	case p.n > p.max:
		return 0, errLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, errSlow
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, errCut // which io.ReadFull must not take for its own
	}
	return n, err
}

// end lifts the deadline: what follows on the connection has its own.
func (p *paced) end() error { return p.rc.SetReadDeadline(time.Time{}) }

// refuse answers for a body that could not be read, and ends the connection: where its
// bytes would end is not known.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, limit int64, err error) {
	w.Header().Set("Connection", "close")
	op := r.Method + " " + r.URL.Path
	switch {
	case errors.Is(err, errLarge):
		e := errs.E(errs.Exhausted, op, "the body is larger than %d bytes", limit).WithHint("nothing was changed; a request of this size is no request of the API")
		if limit == g.limits.Piece {
			e = e.WithHint("send the file in pieces: ?offset= says where each begins")
		}
		writeError(w, http.StatusRequestEntityTooLarge, e)
	case errors.Is(err, errSlow):
		writeError(w, http.StatusRequestTimeout, errs.E(errs.Timeout, op, "the body arrived at less than %d bytes a second", g.limits.Rate).
			WithHint("nothing was changed; send it again"))
	default:
		writeError(w, http.StatusBadRequest, errs.E(errs.Invalid, op, "the body could not be read: %w", err).WithHint("nothing was changed; send it again"))
	}
}

// hasBody reports whether the client sends one, empty or not.
func hasBody(r *http.Request) bool { return r.ContentLength != 0 }

// announced refuses by its announced length what is too large, before a byte of it is read.
func announced(r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return errLarge
	}
	return nil
}

// readJSON reads a request's JSON whole, so that nothing is called before it has arrived.
func (g *Gateway) readJSON(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if err := announced(r, g.limits.JSON); err != nil {
		g.refuse(w, r, g.limits.JSON, err)
		return nil, false
	}
	op := r.Method + " " + r.URL.Path
	if t := r.Header.Get("Content-Type"); !isJSON(t) {
		w.Header().Set("Connection", "close")
		writeError(w, http.StatusUnsupportedMediaType, errs.E(errs.Invalid, op, "the body is of type %q, not %s", t, jsonType).
			WithField("Content-Type").WithHint("with curl: --json '{…}'"))
		return nil, false
	}
	p := g.pace(w, r, g.limits.JSON)
	data, err := io.ReadAll(p)
	if err != nil {
		g.refuse(w, r, g.limits.JSON, err)
		return nil, false
	}
	if err := p.end(); err != nil {
		g.refuse(w, r, g.limits.JSON, err)
		return nil, false
	}
	if err := checkJSON(op, data); err != nil {
		WriteError(w, err)
		return nil, false
	}
	return data, true
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == jsonType
}

// checkJSON refuses what is not one JSON value, or no value at all, with the place. An empty
// body stands for an empty object.
func checkJSON(op string, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var v json.RawMessage
	err := json.Unmarshal(data, &v)
	if err == nil {
		return nil
	}
	e := errs.E(errs.Invalid, op, "the body is no JSON: %w", err).WithHint("correct it and send the request again; nothing was changed")
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		e = e.At("body:" + lineColumn(data, s.Offset))
	}
	return e
}

// lineColumn is where the byte before offset stands, both counted from 1.
func lineColumn(data []byte, offset int64) string {
	before := string(data[:min(max(offset-1, 0), int64(len(data)))])
	line := strings.Count(before, "\n") + 1
	column := len(before) - strings.LastIndexByte(before, '\n')
	return strconv.Itoa(line) + ":" + strconv.Itoa(column)
}
