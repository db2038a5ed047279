package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

// Before there is a control node to ask, the next step is the one that is missing: a context
// first, and then the founding, not another root.
func TestNothingToAskYet(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.json")
	t.Setenv(envConfig, config)
	t.Setenv(envContext, "")
	t.Setenv(envAddress, "")
	t.Setenv(envAPIKey, "")
	if _, err := cli(t, "", "cluster", "status"); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "no cluster is configured in "+config) {
		t.Errorf("without a context: %v", err)
	}
	ok(t, "", "cluster", "init", "young")
	_, err := cli(t, "", "cluster", "status")
	if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "cluster young is not founded yet") || !strings.Contains(errs.HintOf(err), "runink cluster bootstrap") {
		t.Errorf("before the founding: %v; %s", err, errs.HintOf(err))
	}
}
