# One slice that prints numbered lines and then ends as the parameter says. The whole-cluster
# tests run it in thirty ways.
@owner("ops@example.org")
Feature: Exits

  @param("how", type=string, default="ok")
  @param("lines", type=int, default=40)
  Scenario: One slice

    @source("file://orders.jsonl", name="orders", on_error=fail) @contract("contracts.Order")
    @requires(cpu=0.2, memory="64Mi", time=40s)
    Given orders

    @step("Act", on_error=fail)
    @requires(cpu=0.2, memory="64Mi", time=40s)
    When one is carried out

    @sink("file://out/done.jsonl", on_error=fail)
    Then the rows are kept
