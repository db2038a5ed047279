@module("bronze") @use("example.com/x", as="x")
Feature: later

  @checkpoint(every=30s)
  Scenario: things that are not built

    @source("s3://bucket/a.csv", name="a") @contract("contracts.Flight")
    Given a

    @source("file://a.parquet", name="b") @contract("contracts.Flight")
    Given b

    @source("file://f.csv", name="f", format=csv) @contract("contracts.Flight")
    Given f

    @step("dedupe", from="f", key="origin")
    Then one

    @step("Split", from="f")
    Then two

    @step("Bytes", from="f")
    Then three

    @step("Stateful", from="f")
    Then four

    @step("JoinAirport", from="f", with="f", on="origin", kind=left, within=1h)
    Then five

    @window(tumbling=1h)
    @step("aggregate", name="agg", from="f", key="origin", n="sum(delay)")
    Then six

    @llm(model="m")
    Then seven

    @discard("why")

    @sink("file://out/{origin}.csv", from="f.rejected")
    @secret("s", as="auth")
    And stored

    @sink("kafka://user:secret@host/topic", from="f", name="k")
    @herd("other")
    And stored

  Examples: agg from "testdata/x"
