package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"

	"google.golang.org/grpc/metadata"

	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/pki"
)

func certificate(c *tls.Certificate) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) { return c, nil }
}

func certs(c ...*x509.Certificate) []*x509.Certificate { return c }

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func outgoing(ctx context.Context, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

func (c *testCluster) operatorCertificate() (*tls.Certificate, error) { return c.operatorTLS(), nil }

func (c *testCluster) expiredCertificate(dir pki.NodeDir, name string) func() (*tls.Certificate, error) {
	return certificate(c.expired(dir, name))
}

func (c *testCluster) dialAs(id credential) *apiclient.Client {
	return c.dial(apiclient.Config{APIKey: id.key}, pki.ClientOptions{Certificate: id.cert})
}

// anyServer is a transport that does not ask who answers: a node before its bootstrap.
func anyServer() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
}
