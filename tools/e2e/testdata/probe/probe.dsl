# Does in slices on three nodes what its input tells each step to do. The whole-cluster tests
# try with it what a slice must not be able to do.
@owner("ops@example.org")
Feature: Ways out of a slice

  Scenario: Attempts

    @source("file://attempts.jsonl", name="attempts", on_error=fail) @contract("contracts.Attempt")
    @requires(cpu=0.4, memory="128Mi", label=["node=n3"])
    Given what to do

    @step("Here", on_error=fail)
    @requires(cpu=0.4, memory="128Mi", label=["node=n3"])
    When it is done on one node

    @step("There", on_error=fail) @secret("probe/variable", as="env:PROBE") @secret("probe/file", as="file")
    @requires(cpu=0.4, memory="128Mi", label=["node=n2"])
    And on another

    @step("Elsewhere", on_error=fail)
    @requires(cpu=0.4, memory="128Mi", label=["node=n1"])
    And on the third

    @sink("file://out/done.jsonl", on_error=fail)
    Then the rows have come through
