package sdk

import "embed"

// Source is the text of this module, for programs built where it was not downloaded.
//
//go:embed go.mod *.go frame
var Source embed.FS
