# Which airports do flights leave late from? Run it with: runink run flights.dsl
@herd("analytics") @owner("ops@example.org")
Feature: Flight delays

  @param("min_delay", type=float, default=15)
  Scenario: Late departures by airport

    @source("file://data/flights.jsonl", name="flights") @contract("contracts.Flight")
    @requires(cpu=0.5, memory="64Mi")
    Given the flights

    @source("file://data/airports.csv", name="airports") @contract("contracts.Airport")
    @requires(cpu=0.3, memory="64Mi")
    And the airports

    @step("JoinAirport", from="flights", with="airports", on="origin=iata")
    @requires(cpu=0.6, memory="128Mi")
    When the airport is joined

    @step("aggregate", key=["origin", "city"], flights="count()", mean_delay="mean(delay)", name="delays")
    @requires(cpu=0.3, memory="128Mi") @affinity(spread="node")
    Then delays are summed by airport

    @sink("file://out/late.jsonl", when="mean_delay > ${min_delay}")
    And late airports are stored

    @sink("file://out/rest.jsonl", when="otherwise")
    And so are the others

    @dlq("file://out/rejected.jsonl")

  Examples: JoinAirport
    | origin | delay | airports.iata | airports.city  | -> origin  | city           | delay |
    | SLC    | 12    | SLC           | Salt Lake City | SLC        | Salt Lake City | 12    |
    | HHH    | 3     | HHH           | NA             | !step      |                |       |
    | XYZ    | 12    | SLC           | Salt Lake City | !unmatched |                |       |
