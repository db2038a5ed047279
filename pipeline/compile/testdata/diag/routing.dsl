Scenario: conditions without the rest

  @source("file://flights.csv") @contract("contracts.Flight", on_error=skip)
  Given flights

  @sink("file://late.csv", when="delay > 15")
  @requires(memory=1Gi)

  @sink("file://early.csv", when="delay < 0 and origin == 'SLC'")
  Then early
