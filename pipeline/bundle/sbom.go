package bundle

import (
	"debug/buildinfo"
	"encoding/json"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// SBOM describes a Go program as SPDX 2.3 JSON: one package for the program and one for
// each module linked into it, read from the program itself (debug/buildinfo). The date
// is the epoch, so that equal programs give equal documents.
//
// Format: https://spdx.github.io/spdx-spec/v2.3/
func SBOM(program, name string) ([]byte, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, errs.E(errs.Invalid, "make SBOM", "%s: %w", program, err)
	}
	type ref struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		ID       string `json:"SPDXID"`
		Name     string `json:"name"`
		Version  string `json:"versionInfo,omitempty"`
		Download string `json:"downloadLocation"`
		Analyzed bool   `json:"filesAnalyzed"`
		Refs     []ref  `json:"externalRefs,omitempty"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	doc := struct {
		Version   string `json:"spdxVersion"`
		License   string `json:"dataLicense"`
		ID        string `json:"SPDXID"`
		Name      string `json:"name"`
		Namespace string `json:"documentNamespace"`
		Creation  struct {
			Created  string   `json:"created"`
			Creators []string `json:"creators"`
		} `json:"creationInfo"`
		Packages  []pkg      `json:"packages"`
		Relations []relation `json:"relationships"`
	}{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name, Namespace: "https://runink.github.io/sbom/" + name}
	doc.Creation.Created = "1970-01-01T00:00:00Z"
	doc.Creation.Creators = []string{"Tool: runink"}
	const root = "SPDXRef-program"
	doc.Packages = append(doc.Packages, pkg{ID: root, Name: info.Main.Path, Download: "NOASSERTION"})
	doc.Relations = append(doc.Relations, relation{doc.ID, "DESCRIBES", root})
	add := func(path, version string) {
		id := "SPDXRef-" + strings.Map(func(r rune) rune {
			if r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
				return r
			}
			return '-'
		}, path+"-"+version)
		p := pkg{ID: id, Name: path, Version: version, Download: "NOASSERTION"}
		p.Refs = []ref{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + path + "@" + version}}
		doc.Packages = append(doc.Packages, p)
		doc.Relations = append(doc.Relations, relation{root, "DEPENDS_ON", id})
	}
	add("stdlib", strings.TrimPrefix(info.GoVersion, "go"))
	for _, m := range info.Deps {
		// A module replaced by a folder keeps its own name: the folder means nothing elsewhere.
		if r := m.Replace; r != nil && !strings.HasPrefix(r.Path, ".") && !strings.HasPrefix(r.Path, "/") {
			m = r
		}
		add(m.Path, m.Version)
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}
