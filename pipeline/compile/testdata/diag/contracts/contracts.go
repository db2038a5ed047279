package contracts

import "time"

type Flight struct {
	Date   time.Time `contract:"required,layout=2006/01/02 15:04"`
	Delay  int       `contract:"min=-120,max=480"`
	Origin string    `contract:"pattern=^[A-Z]{3}$"`
	Gate   *string
	Price  float64
}

type Airport struct {
	Code string `contract:"required"`
	Name string
	City string
	Size int64
}

type Bad struct {
	List   []string
	Len    string `contract:"len=3"`
	Typo   string `contract:"requird"`
	Range  string `contract:"min=1"`
	Regexp string `contract:"pattern=(["`
	Twice  int    `json:"len"`
	Same   int    `json:"len"`
	Airport
}

type Number int
