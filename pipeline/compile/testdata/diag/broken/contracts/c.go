package contracts

type Flight struct {
	Delay  int
	Origin Unknown
}
