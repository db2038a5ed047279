Scenario: a bad contract

  @source("file://bad.csv") @contract("contracts.Bad")
  Given bad

  @source("file://number.csv") @contract("contracts.Number")
  Given a number

  @source("file://none.csv") @contract("contracts")
  Given none

  @sink("file://x.csv", from="bad")
  @dlq("file://rejected.jsonl")
