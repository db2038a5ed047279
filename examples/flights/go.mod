module example.com/flights

go 1.26
