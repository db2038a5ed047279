module example.com/hold

go 1.26

require github.com/runink/runink/sdk v0.0.0

replace github.com/runink/runink/sdk => ../../../../../sdk
