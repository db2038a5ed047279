// Licences fails when a module that is linked into bin/runink or the engines has no
// licence file, or one whose text is none of those we accept: Apache-2.0, MIT, BSD, ISC,
// MPL-2.0, and the public-domain-like ones.
//
//	go run ./tools/licences       # check
//	go run ./tools/licences -list # and print module, version, licence
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// accepted are sentences that occur in a licence's text and in no other's. Order matters:
// the first that matches names the licence.
var accepted = []struct{ name, sentence string }{
	{"Apache-2.0", "apache license version 2.0"},
	{"Apache-2.0", "licensed under the apache license, version 2.0"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"MPL-2.0", "mozilla public license, version 2.0"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"BSD", "redistribution and use in source and binary forms, with or without modification, are permitted"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose"},
	{"Unlicense", "this is free and unencumbered software released into the public domain"},
}

func main() {
	list, fs := flags(flag.ExitOnError)
	err := fs.Parse(os.Args[1:])
	if err == nil { // ExitOnError ends before
		err = run(*list)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// flags are the program's.
func flags(wrong flag.ErrorHandling) (list *bool, fs *flag.FlagSet) {
	fs = flag.NewFlagSet("licences", wrong)
	list = fs.Bool("list", false, "print every module and its licence")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), "usage: licences [flags]\n\nFails where a linked module has no licence that we accept.\n  licences -list\n\n")
		fs.PrintDefaults()
	}
	return list, fs
}

type module struct {
	Path, Version, Dir string
	Main               bool
	Replace            *module
}

func run(list bool) error {
	mods, err := linked()
	if err != nil {
		return err
	}
	var bad []string
	for _, m := range mods {
		name, err := licence(m.Dir)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s %s: %v", m.Path, m.Version, err))
			continue
		}
		if list {
			fmt.Printf("%-60s %-40s %s\n", m.Path, m.Version, name)
		}
	}
	if len(bad) > 0 {
		return errors.New("not accepted:\n  " + strings.Join(bad, "\n  "))
	}
	fmt.Printf("%d linked modules, all under accepted licences\n", len(mods))
	return nil
}

// linked returns the modules whose packages are in our binaries.
func linked() ([]module, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=Module", "./cmd/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	seen := map[string]module{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct{ Module *module }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		// The sdk is ours: it is replaced by a folder.
		if p.Module == nil || p.Module.Main || p.Module.Replace != nil {
			continue
		}
		seen[p.Module.Path] = *p.Module
	}
	mods := make([]module, 0, len(seen))
	for _, m := range seen {
		mods = append(mods, m)
	}
	slices.SortFunc(mods, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return mods, nil
}

func licence(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	found := false
	for _, e := range entries {
		up := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(up, "LICEN") && !strings.HasPrefix(up, "COPYING") && !strings.HasPrefix(up, "UNLICENSE") {
			continue
		}
		found = true
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		var words []string
		for line := range strings.Lines(string(b)) { // a text may be quoted, as in mail
			words = append(words, strings.Fields(strings.TrimPrefix(line, ">"))...)
		}
		text := strings.ToLower(strings.Join(words, " "))
		for _, a := range accepted {
			if strings.Contains(text, a.sentence) {
				return a.name, nil
			}
		}
	}
	if found {
		return "", errors.New("its licence is none we accept")
	}
	return "", errors.New("it has no licence file")
}
