@param("day", type=string, default="monday") @param("da", type=string, default="mon")
Scenario: outputs that would destroy

  @source("file://data/flights.csv") @contract("contracts.Flight")
  Given flights

  @source("file://data/flights.csv", name="again") @contract("contracts.Flight")
  Given the same flights

  @sink("file://data/flights.csv", name="rest", from="flights")
  Then the input is overwritten

  @sink("file://out/../data/./flights.csv", name="spelt", from="again")
  And so it is

  @sink("file://out/${day}.jsonl", name="first", from="flights", on_error=skip)
  And an output is written

  @sink("file://out/x/../${day}.jsonl", name="other", from="again", on_error=skip)
  And these might be it

  @sink("file://out//${day}.jsonl", name="second", from="again", on_error=skip)
  And this is it

  @sink("file://out/${da}y.jsonl", name="third", from="again", on_error=skip)
  And this is another

  @dlq("file://out/${day}.jsonl", name="rejected")
