Scenario: rows without an exit

  @source("file://flights.csv") @contract("contracts.Flight")
  Given flights

  @source("file://airports.csv") @contract("contracts.Airport", on_error=dlq)
  Given airports

  @step("JoinAirport", from="flights", with="airports", on="origin=code")
  Then joined

  @step("aggregate", key="origin", mean="mean(delay)", on_error=fail)
  Then summed

  @sink("file://out.jsonl")
  Then stored

  @sink("file://copy.csv") @dlq("file://never.jsonl")
  Then stored

  @dlq("file://some.jsonl", from=["JoinAirport.rejected", "copy", "nobody"])
