@param("min", type=float, default=15) @param("name", type=string) @param("d", type=duration, default=soon)
Scenario: fields and types

  @source("file://flights.csv") @contract("contracts.Flight")
  Given flights

  @source("file://airports.csv") @contract("contracts.Airport")
  Given airports

  @step("JoinAirport", from="flights", with="airports", on=["origin=iata", "orign=code", "delay=size"])
  Then joined

  @step("JoinAirport", name="noright", from="flights")
  Then not joined

  @step("JoinAirpot", name="unknown", from="flights", with="airports", on="orgin=code")
  Then unknown

  @step("Late", name="aslate", from="airports", on="x")
  Then wrong stream

  @step("WantsInt64", from="flights")
  Then other type

  @step("WantsRunway", from="flights", speed=3)
  Then missing

  @step("Odd", from="flights")
  Then no shape

  @step("Hidden", from="flights")
  Then hidden

  @step("Number", from="flights")
  Then a number

  @step("NotAFunc", from="flights")
  Then no function

  @step("fliter", from="flights")
  Then a typo

  @step("filter", name="f1", from="flights", where="delay")
  Then no condition

  @step("filter", name="f2", from="flights", where="dely > ${mn} and origin > 3")
  Then unknown names

  @step("filter", name="f3", from="flights", where="delay > ")
  Then broken

  @step("filter", name="f4", from="flights", where="delay > 1 and origin + delay == ${min}")
  Then mixed

  @step("filter", name="f5", from="flights", where="origin == '${name}'")
  Then text

  @step("filter", name="f6", from="flights", where="filter([1], # > 1) == 2", wher="x")
  Then too much

  @step("filter", name="f7", from="flights", where="$min > 1")
  Then bare

  @step("derive", name="d1", from="flights", Upper="delay", ok="delay * 2", key="x")
  Then derived

  @step("select", name="s1", from="flights", fields=["origin", "origin", "cty"])
  Then selected

  @step("aggregate", name="a1", from="flights", key=["origin", "price", "gat"], a="mean(origin)", b="median(delay)", c="sum(dely)", d="delay", e="count(delay)", origin="count()", g="sum()")
  Then summed

  @step("aggregate", name="a2", from="flights")
  Then nothing

  @step("Clean", from="flights") @contract("contracts.Airport")
  Then another contract

  @sink("file://out/${nme}.csv", from="flights")
  Then stored

  @sink("file://out/é.csv", name="u", from="flights", when="origin == 'é' and dely > 1")
  Then columns count bytes

  @dlq("file://rejected.jsonl")
