module github.com/runink/runink/sdk

go 1.26
