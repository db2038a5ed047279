Scenario: a broken Go package hides nothing

  @source("file://flights.csv") @contract("contracts.Flight")
  Given flights

  @step("Good")
  Then good

  @step("Godd")
  Then unknown

  @step("filter", where="dely > 0")
  Then a typo
