package compile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseSize reads bytes: 512Mi, 64K, 1.5G, 1024.
func parseSize(s string) (int64, error) {
	units := []struct {
		suffix string
		factor float64
	}{
		{"Ki", 1 << 10},
		{"Mi", 1 << 20},
		{"Gi", 1 << 30},
		{"Ti", 1 << 40},
		{"K", 1e3},
		{"k", 1e3},
		{"M", 1e6},
		{"G", 1e9},
		{"T", 1e12},
		{"", 1},
	}
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(num, 64)
		if err != nil || !(v > 0) || v*u.factor >= 1<<62 || strings.ContainsAny(num, "eExXpP_") {
			break
		}
		return int64(math.Round(v * u.factor)), nil
	}
	return 0, fmt.Errorf("%q is not a size", s)
}

// parseCPU reads processors, 2, 0.5 or 500m, as thousandths.
func parseCPU(s string) (int64, error) {
	factor := 1000.0
	num, ok := strings.CutSuffix(s, "m")
	if ok {
		factor = 1
	}
	v, err := strconv.ParseFloat(num, 64)
	if err != nil || !(v > 0) || v > 1e6 || strings.ContainsAny(num, "eExXpP_") || math.Round(v*factor) < 1 {
		return 0, fmt.Errorf("%q is not a number of processors", s)
	}
	return int64(math.Round(v * factor)), nil
}

// parseDuration reads Go durations and days: 90s, 10m, 2d.
func parseDuration(s string) (time.Duration, error) {
	if num, ok := strings.CutSuffix(s, "d"); ok {
		v, err := strconv.ParseFloat(num, 64)
		if err == nil && v >= 0 && v < 1e5 {
			return time.Duration(v * float64(24*time.Hour)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration", s)
	}
	return d, nil
}

// checkScalar reports whether text is a value of a plan type, in the form that
// parameters, rules and examples use.
func checkScalar(typ, layout, text string) error {
	var err error
	switch typ {
	case "string":
	case "bool":
		if text != "true" && text != "false" {
			err = strconv.ErrSyntax
		}
	case "float32":
		_, err = strconv.ParseFloat(text, 32)
	case "float64", "float":
		_, err = strconv.ParseFloat(text, 64)
	case "duration":
		_, err = parseDuration(text)
	case "time":
		if layout == "" {
			layout = time.RFC3339Nano
		}
		_, err = time.Parse(layout, text)
	default:
		bits := intBits(typ)
		if strings.HasPrefix(typ, "u") {
			_, err = strconv.ParseUint(text, 10, bits)
		} else {
			_, err = strconv.ParseInt(text, 10, bits)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not %s", text, article(typ))
	}
	return nil
}

// scalarForm says how a value of a type is written, with an example.
func scalarForm(typ, layout string) string {
	switch {
	case isInt(typ):
		return "a whole number, such as 15"
	case isFloat(typ):
		return "a number, such as 1.5"
	case typ == "bool":
		return "true or false"
	case typ == "duration":
		return "a duration, such as 90s or 10m"
	case typ == "time" && layout != "":
		return "a time in the form " + layout
	case typ == "time":
		return "a time, such as 2001-01-01T00:47:00Z"
	}
	return "text"
}

func intBits(typ string) int {
	n, err := strconv.Atoi(strings.TrimLeft(typ, "uint"))
	if err != nil {
		return 64
	}
	return n
}

func article(typ string) string {
	if strings.HasPrefix(typ, "int") {
		return "an " + typ
	}
	return "a " + typ
}

func isInt(typ string) bool {
	return strings.HasPrefix(typ, "int") || strings.HasPrefix(typ, "uint")
}

func isFloat(typ string) bool { return strings.HasPrefix(typ, "float") }
