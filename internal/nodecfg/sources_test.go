package nodecfg

import (
	"reflect"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

func line(text string) Source { return Source{Name: CommandLine, Text: text} }

func TestParseSources(t *testing.T) {
	want, err := Parse(worker + " runink.ip=eth0,10.1.2.3/24 runink.ip=eth1,10.1.3.3/24")
	if err != nil {
		t.Fatal(err)
	}
	public, private := strings.Join(strings.Fields(worker)[:4], " "), strings.Join(strings.Fields(worker)[4:], "\n")
	const addresses = " runink.ip=eth0,10.1.2.3/24 runink.ip=eth1,10.1.3.3/24"
	for _, tt := range []struct {
		name    string
		sources []Source
	}{
		{"all on the command line", []Source{line("quiet " + worker + addresses)}},
		{"all elsewhere", []Source{line("quiet"), {"SMBIOS", worker + addresses}}},
		{"spread", []Source{line(public), {"fw_cfg", private}, {"SMBIOS", addresses}}},
		{"with comments", []Source{line(public), {"config disk", "# who we are\n" + private + " # for once\n#runink.nod=x\n" + addresses}}},
		{"twice the same", []Source{line(worker + addresses), {"SMBIOS", "runink.node=n4" + addresses}}},
		{"no newline at the end, others' line ends", []Source{line(public + addresses), {"config disk", strings.ReplaceAll(private, "\n", "\r\n")}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSources(tt.sources...)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
}

func TestParseSourcesRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, field, says string
		sources           []Source
	}{
		{"two names", "runink.node", "kernel command line and SMBIOS", []Source{line(worker), {"SMBIOS", "runink.node=n5"}}},
		{"two tokens", "runink.token", "fw_cfg and config disk", []Source{line("quiet"), {"fw_cfg", worker}, {"config disk", "runink.token=other"}}},
		{"another list of addresses", "runink.ip", "kernel command line and SMBIOS", []Source{line(worker + " runink.ip=eth0,10.0.0.1/8"), {"SMBIOS", "runink.ip=eth0,10.0.0.1/8 runink.ip=eth0,10.0.0.2/8"}}},
		{"misspelt elsewhere", "runink.nod", "SMBIOS", []Source{line(worker), {"SMBIOS", "runink.nod=n4"}}},
		{"twice in one", "runink.node", "config disk", []Source{line("quiet"), {"config disk", worker + "\nrunink.node=n4"}}},
		{"not ours", "root?", "config disk", []Source{line(worker), {"config disk", "root\x01 x"}}},
		{"a program", "?ELF", "config disk", []Source{line(worker), {"config disk", "\x7fELF"}}},
		{"nothing at all", "runink.cluster", "missing", []Source{line("quiet"), {"SMBIOS", ""}}},
		{"asks for another disk", "runink.config", "disk", []Source{line(worker + " runink.config=cd")}},
		{"giant", "", "config disk", []Source{line(worker), {"config disk", strings.Repeat("#", MaxCommandLine+1)}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseSources(tt.sources...)
			e, ok := err.(*errs.Error)
			if !ok || e.Kind != errs.Invalid || e.Field != tt.field || e.Hint == "" || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v; want an invalid %q with a hint that says %q", err, tt.field, tt.says)
			}
			for _, secret := range []string{"abc.DEF-1", "other"} {
				if strings.Contains(err.Error()+errs.HintOf(err), "="+secret) {
					t.Errorf("%v tells a token", err)
				}
			}
		})
	}
}

func TestWantsConfigDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		want bool
		in   []Source
	}{
		{"nothing is known", true, []Source{line("quiet")}},
		{"all is known", false, []Source{line(worker)}},
		{"known together", false, []Source{line(strings.Join(strings.Fields(worker)[:2], " ")), {"SMBIOS", strings.Join(strings.Fields(worker)[2:], " ")}}},
		{"asked for", true, []Source{line(worker + " runink.config=disk")}},
		{"no name", true, []Source{line(strings.Replace(worker, "runink.node=n4", "", 1))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := WantsConfigDisk(tt.in...); err != nil || got != tt.want {
				t.Errorf("got %t, %v; want %t", got, err, tt.want)
			}
		})
	}
	if _, err := WantsConfigDisk(line("runink.x=1")); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a misspelt key: %v", err)
	}
}

func TestEarlyTimeScale(t *testing.T) {
	for _, tt := range []struct {
		name string
		want float64 // 0: refused
		in   []Source
	}{
		{"nobody says it", 1, []Source{line("quiet")}},
		{"SMBIOS says it", 3, []Source{line("quiet"), {"SMBIOS", "runink.timescale=3"}}},
		{"two say it", 3, []Source{line("runink.timescale=3"), {"SMBIOS", "runink.timescale=3"}}},
		{"they differ", 0, []Source{line("runink.timescale=2"), {"SMBIOS", "runink.timescale=3"}}},
		{"no number", 0, []Source{line("runink.timescale=x")}},
		{"out of range", 0, []Source{line("runink.timescale=1000")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := EarlyTimeScale(tt.in...)
			if tt.want == 0 {
				if errs.KindOf(err) != errs.Invalid {
					t.Errorf("got %v, %v; want an error of kind invalid", got, err)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// FuzzParseSources: two sources that are accepted make what one with the words of both
// makes, and no value of a source is lost.
func FuzzParseSources(f *testing.F) {
	f.Add("quiet "+first, "")
	f.Add(strings.Join(strings.Fields(worker)[:3], " "), "# rest\n"+strings.Join(strings.Fields(worker)[3:], "\n"))
	f.Add(worker, "runink.node=n5")
	f.Add("", "runink.ip=a,b \"")
	f.Fuzz(func(t *testing.T, cmdline, disk string) {
		got, err := ParseSources(line(cmdline), Source{"config disk", disk})
		if err != nil {
			if errs.KindOf(err) != errs.Invalid || errs.HintOf(err) == "" {
				t.Fatalf("%v is not invalid with a hint", err)
			}
			return
		}
		again, err := ParseSources(Source{"config disk", disk}, line(cmdline))
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v, in the other order %+v, %v", got, again, err)
		}
	})
}
