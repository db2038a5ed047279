# Built-in steps alone: it runs on the engines that are in the image, its two slices on two
# nodes.
@owner("ops@example.org")
Feature: Built-in steps

  @param("how", type=string, default="ok")
  Scenario: Twice

    @source("file://orders.jsonl", name="orders", on_error=fail) @contract("contracts.Order")
    Given orders

    @step("filter", where="n > 1", name="later")
    When the first is left out

    @step("derive", twice="n * 2", name="doubled", on_error=fail)
    @affinity(spread="node")
    And each is doubled

    @sink("file://out/done.jsonl", on_error=fail)
    Then they are kept
