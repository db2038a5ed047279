# One slice on the ordinary host, which does what the parameter says.
@owner("ops@example.org")
Feature: Hold

  @param("how", type=string, default="hold")
  Scenario: One slice

    @source("file://orders.jsonl", name="orders", on_error=fail) @contract("contracts.Order")
    @requires(cpu=0.2, memory="64Mi", label=["node=n2"])
    Given orders

    @step("Hold", on_error=fail)
    @requires(cpu=0.2, memory="64Mi", label=["node=n2"])
    When they are held

    @sink("file://out/done.jsonl", on_error=fail)
    Then the rows are kept
