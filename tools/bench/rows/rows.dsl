# What `make bench ARGS="-only rows"` runs: filter, derive and write.
@herd("bench")
Feature: Rows

  Scenario: Flights

    @source("file://flights.jsonl", name="flights") @contract("contracts.Flight")
    Given the flights

    @step("filter", where="delay > 15", name="late")
    When the late ones are kept

    @step("Weigh")
    And each delay is weighed

    @sink("file://late.jsonl", name="out")
    Then they are stored

    @dlq("file://rejected.jsonl", name="rejected")

  # The same without Go: the engine that is not generated runs it.
  Scenario: Stock

    @source("file://flights.jsonl", name="flights") @contract("contracts.Flight")
    Given the flights

    @step("filter", where="delay > 15", name="late")
    When the late ones are kept

    @step("derive", weight="delay * distance", name="weighed")
    And each delay is weighed

    @sink("file://late.jsonl", name="out")
    Then they are stored

    @dlq("file://rejected.jsonl", name="rejected")

  Scenario: Routes

    @source("file://flights.jsonl", name="flights") @contract("contracts.Route")
    Given the flights

    @step("filter", where="delay > 15", name="late")
    When the late ones are kept

    @step("WeighRoute")
    And each delay is weighed

    @sink("file://late.jsonl", name="out")
    Then they are stored

    @dlq("file://rejected.jsonl", name="rejected")

  # What waits in the queue of the system group: no node has the label.
  Scenario: Waiting

    @source("file://flights.jsonl", name="flights") @contract("contracts.Flight")
    @requires(label="bench=never")
    Given the flights

    @step("filter", where="delay > 15", name="late")
    @requires(label="bench=never")
    When the late ones are kept

    @sink("file://late.jsonl", name="out")
    Then they are stored

    @dlq("file://rejected.jsonl", name="rejected")
