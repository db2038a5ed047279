package runs

import (
	"reflect"
	"testing"
)

func TestWaive(t *testing.T) {
	for _, c := range []struct {
		name     string
		in, want []SliceSpec
	}{
		{
			"two slices, one wants a node of its own",
			[]SliceSpec{{Name: "a"}, {Name: "b", Spread: true}},
			[]SliceSpec{{Name: "a"}, {Name: "b", SpreadWaived: true}},
		},
		{"the only slice", []SliceSpec{{Name: "a", Spread: true}}, []SliceSpec{{Name: "a", Spread: true}}},
		{"nobody wants one", []SliceSpec{{Name: "a"}, {Name: "b"}}, []SliceSpec{{Name: "a"}, {Name: "b"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Spec{Slices: c.in}
			s.waive()
			if !reflect.DeepEqual(s.Slices, c.want) {
				t.Errorf("%+v, want %+v", s.Slices, c.want)
			}
		})
	}
}
