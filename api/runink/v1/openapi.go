package runinkv1

import (
	_ "embed"
	"slices"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI is the description of the API over HTTP, an OpenAPI 3.0 document in JSON.
// tools/openapi makes it from what rest.yaml maps.
func OpenAPI() []byte { return slices.Clone(openAPI) }
