Scenario: no Go here

  @source("file://flights.csv") @contract("contracts.Flight")
  Given flights

  @step("Clean")
  Then clean

  @sink("file://x.csv")
