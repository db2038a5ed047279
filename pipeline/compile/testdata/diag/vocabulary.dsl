@herd("Big Herd") @param("n", type=flot) @param("n") @param("days", type=duration, default=2d) @param("nan", type=float, default=NaN) @requires(cpu=1) @source("file://x.csv")
Scenario: words

  @sourc("file://a.csv") @contract("contracts.Flight")
  Given a

  @source("file://b.csv", nam="b") @contract("contracts.Flight", on_error=ignore) @owner("me")
  Given b

  @step("filter", where="delay > 0")
  @sink("file://two-heads.csv")
  And b

  @contract("contracts.Flight")
  But no head

  @source() @requires(memory="lots", cpu=-1, disk=0, time=1ms, gpu=1, colour=red, label="a b")
  Given nothing

  @sink("file://c.csv", on_error=explode) @affinity(spread="rack", colocate_with="step:filtr")
  @dlq("file://x.jsonl") @dlq("file://y.jsonl")

@param("late")
Feature: too late
