Scenario: names and streams

  @source("file://flights.csv") @contract("contracts.Flight")
  Given flights

  @source("file://airports.csv") @contract("contracts.Airprt")
  Given airports

  @source("file://more.csv", name="flights") @contract("other.T")
  Given the name twice

  @source("file://plain.csv")
  Given no contract

  @step("filter", where="delay > 0")
  Then which one

  @step("filter", name="up", from="below", where="delay > 0")
  Then upward

  @step("filter", name="typo", from="fligths", where="delay > 0")
  Then a typo

  @step("filter", name="union", from=["flights", "ports"], where="delay > 0")
  Then not equal

  @source("file://ports.csv") @contract("contracts.Airport")
  Given ports

  @step("filter", name="united", from=["flights", "ports"], where="delay > 0")
  Then not equal

  @step("filter", name="below", from="flights", where="delay > 0")
  Then unread

  @sink("file://late.csv", from="flights.rejcted")
  @sink("out.csv", name="a", from="flights")

  @sink("ftp://out.csv", name="b", from="flights")

  @sink("file://out.xls", name="c", from="flights")

  @sink("file://out/", name="d", from="flights")

  @dlq("file://rejected.csv")
