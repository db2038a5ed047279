package cgroup

import (
	"errors"
	"testing"

	"github.com/runink/runink/internal/errs"
)

func TestServiceOf(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a service", "0::/runink.slice/runink-keeper.service\n", "/runink.slice/runink-keeper.service"},
		{"started again in its leaf", "0::/runink.slice/runink-keeper.service/keeper\n", "/runink.slice/runink-keeper.service"},
		{"hybrid", "1:name=systemd:/x.service\n0::/system.slice/x.service\n", "/system.slice/x.service"},
		{"a login", "0::/user.slice/user-0.slice/session-1.scope\n", ""},
		{"the root", "0::/\n", ""},
		{"out of its namespace", "0::/../x.service\n", ""},
		{"cgroup v1 only", "4:memory:/x.service\n", ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := serviceOf(tt.text)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
			if err != nil && (!errors.Is(err, errs.Unavailable) || errs.HintOf(err) == "") {
				t.Errorf("%v has no next step", err)
			}
		})
	}
}
