// Package openlineagetest judges events by OpenLineage's own JSON Schemas. It is for tests. The
// project keeps no copy of the schemas: they are read from the folder shared/schemas beside the
// checkout, and where that is not, a test that needs them says so and is counted as skipped.
package openlineagetest

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const eventFile = "OpenLineage.json"

// schemas is the folder with the specification. The error is fs.ErrNotExist where it is not.
func schemas() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module github.com/runink/runink\n")) {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("this is not below the project's root: %w", os.ErrNotExist)
		}
		dir = up
	}
	spec := filepath.Join(dir, "..", "shared", "schemas", "openlineage")
	_, err = os.Stat(filepath.Join(spec, eventFile))
	return spec, err
}

// Validate says what is wrong with an event, or with a facet of it; nil if nothing is. A
// facet that says of itself that it is of a schema must be valid under that one, and the
// schema's version must be the one of its file here. The error is fs.ErrNotExist where the
// schemas are not there.
func Validate(event string) error {
	spec, err := schemas()
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	ids := map[string]string{} // $id by the schema's name
	for _, d := range []string{spec, filepath.Join(spec, "facets")} {
		files, err := os.ReadDir(d)
		if err != nil {
			return err
		}
		for _, f := range files {
			if path.Ext(f.Name()) != ".json" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(d, f.Name()))
			if err != nil {
				return err
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			if err != nil {
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
			id, _ := doc.(map[string]any)["$id"].(string)
			if err := c.AddResource(id, doc); err != nil {
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
			ids[f.Name()] = id
		}
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(event))
	if err != nil {
		return err
	}
	whole, err := c.Compile(ids[eventFile] + "#/$defs/RunEvent")
	if err != nil {
		return err
	}
	if err := whole.Validate(doc); err != nil {
		return err
	}
	if got, _ := doc.(map[string]any)["schemaURL"].(string); got != ids[eventFile]+"#/$defs/RunEvent" {
		return fmt.Errorf("schemaURL is %s", got)
	}
	return facets(c, ids, "", doc)
}

// facets walks the event and judges every object that names its schema.
func facets(c *jsonschema.Compiler, ids map[string]string, at string, v any) error {
	switch v := v.(type) {
	case []any:
		for i, x := range v {
			if err := facets(c, ids, fmt.Sprintf("%s[%d]", at, i), x); err != nil {
				return err
			}
		}
	case map[string]any:
		if url, ok := v["_schemaURL"].(string); ok {
			id, name, _ := strings.Cut(url, "#/$defs/")
			if want := ids[name+".json"]; want == "" || id != want {
				return fmt.Errorf("%s: its schema is said to be %s; there is %q", at, url, want)
			}
			// As the file has it: the facet under its own key.
			s, err := c.Compile(id)
			if err != nil {
				return err
			}
			if err := s.Validate(map[string]any{path.Base(strings.ReplaceAll(at, ".", "/")): v}); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			// And that key is the one that the file has a property for.
			own, err := c.Compile(url)
			if err != nil {
				return err
			}
			if _, ok := s.Properties[path.Base(strings.ReplaceAll(at, ".", "/"))]; !ok {
				return fmt.Errorf("%s: %s has no facet of that name", at, id)
			}
			return own.Validate(v)
		}
		for k, x := range v {
			if err := facets(c, ids, at+"."+k, x); err != nil {
				return err
			}
		}
	}
	return nil
}
