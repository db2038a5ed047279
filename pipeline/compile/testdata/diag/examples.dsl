Scenario: examples

  @source("file://flights.csv") @contract("contracts.Flight")
  Given flights

  @source("file://airports.csv") @contract("contracts.Airport")
  Given airports

  @step("JoinAirport", from="flights", with="airports", on="origin=code")
  Then joined

  @sink("file://x.csv")

  @dlq("file://rejected.jsonl")

  Examples: JoinAirprt
    | origin | -> city |
    | SLC    | x       |

  Examples: JoinAirport
    | orign | airports.code | airport.city | -> cty | delay |
    | SLC   | SLC           | x            | y      | 1     |

  Examples: JoinAirport
    | origin | delay | airports.code | -> city | delay  |
    | SLC    | many  | SLC           | x       | 1      |
    | SLC    | 1     | SLC           | !stp    |        |
    | SLC    | 1     | SLC           | x       |
    | SLC    | -     | SLC           | x       | y      |

  Examples: JoinAirport
    | origin | city |

  Examples: flights
    | origin | -> origin |
    | SLC    | SLC       |

  Examples: JoinAirport
