Featur: x
@source("file://a.csv"
Given something

@source("file://b.csv, name=b)

@sink(file://c.csv, k=1, k=2, extra)

@sink("a\qb")
Sometimes prose
@sink("file://d.jsonl", [a, [b]])
@sink("file://e.jsonl" name=x)
@(x)
| a | b |
@sink("file://f.jsonl") trailing
  | a
