package plan

import (
	"maps"
	"path/filepath"
	"slices"
)

// SeenFrom returns a copy of the plan whose places are those that somebody sees who calls the
// .dsl's folder dir: "d/flights.dsl:27:5" for flights.dsl:27:5. It is for messages; a plan
// that is stored or hashed keeps the places that do not depend on where the folder lies.
// With dir "" or "." nothing changes.
func (p *Plan) SeenFrom(dir string) *Plan {
	if dir == "" || dir == "." {
		return p
	}
	move := func(pos *Pos) {
		if pos.File != "" && !filepath.IsAbs(pos.File) {
			pos.File = filepath.Join(dir, pos.File)
		}
	}
	secrets := func(list []Secret) []Secret {
		list = slices.Clone(list)
		for i := range list {
			move(&list[i].Pos)
		}
		return list
	}
	c := *p
	c.Params, c.Blocks, c.Slices, c.Schemas = slices.Clone(p.Params), slices.Clone(p.Blocks), slices.Clone(p.Slices), maps.Clone(p.Schemas)
	for i := range c.Params {
		move(&c.Params[i].Pos)
	}
	for i := range c.Blocks {
		move(&c.Blocks[i].Pos)
		c.Blocks[i].Secrets = secrets(c.Blocks[i].Secrets)
	}
	for i := range c.Slices {
		c.Slices[i].Secrets = secrets(c.Slices[i].Secrets)
	}
	for name, s := range c.Schemas {
		move(&s.Pos)
		c.Schemas[name] = s
	}
	return &c
}
