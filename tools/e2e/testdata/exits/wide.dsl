# Four slices in one region, each larger than half a node's half: two such runs do not fit
# into three small nodes together. The first slice waits until the time in the parameter.
@owner("ops@example.org")
Feature: A run of sixty per cent of the cluster

  @param("how", type=string, default="ok")
  @param("lines", type=int, default=1)
  Scenario: Four slices

    @source("file://orders.jsonl", name="orders", on_error=fail) @contract("contracts.Order")
    @requires(cpu=0.81, memory="64Mi")
    Given orders

    @step("Act", on_error=fail)
    @requires(cpu=0.81, memory="64Mi")
    When they wait for their time

    @step("filter", where="n > 0", name="second")
    @requires(cpu=0.81, memory="65Mi")
    And go through a second slice

    @step("filter", where="n > 0", name="third")
    @requires(cpu=0.81, memory="66Mi")
    And a third

    @step("filter", where="n > 0", name="fourth")
    @requires(cpu=0.81, memory="67Mi")
    And a fourth

    @sink("file://out/done.jsonl", on_error=fail)
    Then they are kept
