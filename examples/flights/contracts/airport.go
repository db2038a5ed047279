package contracts

// Airport is one airport of the United States. Small fields without an IATA code of
// their own carry a local identifier such as "00M", which the contract rejects.
type Airport struct {
	IATA      string  `json:"iata" contract:"required,pattern=^[A-Z]{3}$" doc:"IATA code"`
	Name      string  `contract:"required"`
	City      string  `contract:"required"`
	State     string  `contract:"required"`
	Country   string  `contract:"required"`
	Latitude  float64 `contract:"required,min=-90,max=90" doc:"degrees north"`
	Longitude float64 `contract:"required,min=-180,max=180" doc:"degrees east"`
}
