package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/pki"
)

// scrape fetches a node's metrics as an operator does, with the files in dir.
func scrape(ctx context.Context, addr, dir string) (string, error) {
	root, err := pki.LoadCerts(filepath.Join(dir, "root.crt"))
	if err != nil {
		return "", err
	}
	key, err := pki.LoadKey(filepath.Join(dir, "operator.key"))
	if err != nil {
		return "", err
	}
	chain, err := pki.LoadCerts(filepath.Join(dir, "operator.crt"))
	if err != nil {
		return "", err
	}
	_, cfg := pki.MutualTLS(root[0], func() (*tls.Certificate, error) { return pki.TLSCertificate(key, chain), nil }, time.Now,
		func(pki.Identity, *x509.Certificate) error { return nil })
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", req.URL, resp.Status, strings.TrimSpace(string(b)))
	}
	return string(b), nil
}

// processBytes finds runink_process_memory_bytes of one process in the text of a scrape.
func processBytes(text, process string) (float64, error) {
	for line := range strings.Lines(text) {
		labels, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(labels, "runink_process_memory_bytes{") || !strings.Contains(labels, `process="`+process+`"`) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || n <= 0 {
			return 0, fmt.Errorf("metrics say %q", strings.TrimSpace(line))
		}
		return n, nil
	}
	return 0, fmt.Errorf("metrics say nothing of the memory of %s", process)
}
