package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

const (
	pemKey  = "PRIVATE KEY"
	pemCert = "CERTIFICATE"
)

// NewKey makes an ECDSA P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, errs.E(errs.Internal, "make key", "%w", err)
	}
	return k, nil
}

// Fingerprint is "sha256:" and the hexadecimal SHA-256 of the key's SubjectPublicKeyInfo.
func Fingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", errs.E(errs.Invalid, "fingerprint key", "%w", err)
	}
	return fingerprintSPKI(der), nil
}

// CertFingerprint is the fingerprint of the certificate's key.
func CertFingerprint(c *x509.Certificate) string {
	return fingerprintSPKI(c.RawSubjectPublicKeyInfo)
}

func fingerprintSPKI(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// EncodeKey writes a key as PKCS #8 in PEM.
func EncodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, errs.E(errs.Internal, "encode key", "%w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// DecodeKey reads what EncodeKey wrote.
func DecodeKey(data []byte) (*ecdsa.PrivateKey, error) {
	const op = "decode key"
	b, _ := pem.Decode(data)
	if b == nil || b.Type != pemKey {
		return nil, errs.E(errs.Corrupt, op, "no PEM block %q", pemKey)
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errs.E(errs.Corrupt, op, "the key is a %T, not ECDSA", k)
	}
	return ec, nil
}

// SaveKey replaces path with the key, mode 0600.
func SaveKey(path string, k *ecdsa.PrivateKey) error {
	data, err := EncodeKey(k)
	if err != nil {
		return err
	}
	if err := fsx.WriteFileAtomic(path, data, 0o600); err != nil {
		return errs.E(errs.Internal, "write key", "%w", err)
	}
	return nil
}

// LoadKey reads a key file. NotFound if there is none.
func LoadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := readFile("read key", path)
	if err != nil {
		return nil, err
	}
	k, err := DecodeKey(data)
	if err != nil {
		return nil, errs.Wrap("read key "+path, err)
	}
	return k, nil
}

// EncodeCerts writes certificates as PEM, in the given order.
func EncodeCerts(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: c.Raw})...)
	}
	return out
}

// DecodeCerts reads one or more certificates in PEM, in their order.
func DecodeCerts(data []byte) ([]*x509.Certificate, error) {
	const op = "decode certificates"
	var certs []*x509.Certificate
	for {
		var b *pem.Block
		b, data = pem.Decode(data)
		if b == nil {
			break
		}
		if b.Type != pemCert {
			return nil, errs.E(errs.Corrupt, op, "a PEM block %q among certificates", b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, errs.E(errs.Corrupt, op, "%w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errs.E(errs.Corrupt, op, "there is none")
	}
	return certs, nil
}

// ParseChain reads certificates in DER as they travel in messages.
func ParseChain(der [][]byte) ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, 0, len(der))
	for i, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, errs.E(errs.Invalid, "read certificate chain", "certificate %d: %w", i, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errs.E(errs.Invalid, "read certificate chain", "it is empty")
	}
	return certs, nil
}

// DER is the inverse of ParseChain.
func DER(certs []*x509.Certificate) [][]byte {
	out := make([][]byte, len(certs))
	for i, c := range certs {
		out[i] = c.Raw
	}
	return out
}

// SaveCerts replaces path with certificates, mode 0644.
func SaveCerts(path string, certs ...*x509.Certificate) error {
	if err := fsx.WriteFileAtomic(path, EncodeCerts(certs...), 0o644); err != nil {
		return errs.E(errs.Internal, "write certificates", "%w", err)
	}
	return nil
}

// LoadCerts reads a file of certificates. NotFound if there is none.
func LoadCerts(path string) ([]*x509.Certificate, error) {
	data, err := readFile("read certificates", path)
	if err != nil {
		return nil, err
	}
	certs, err := DecodeCerts(data)
	if err != nil {
		return nil, errs.Wrap("read certificates "+path, err)
	}
	return certs, nil
}

func readFile(op, path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.E(errs.NotFound, op, "%w", err)
	}
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	return data, nil
}
