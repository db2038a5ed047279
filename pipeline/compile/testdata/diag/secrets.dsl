@secret("feature/default", as="file")
Feature: secrets

  @secret("scenario/default", as="file")
  Scenario: what is wrong with secrets

  @source("file://flights.csv", name="flights") @contract("contracts.Flight")
  @secret("on/source", as="file")
  Given flights

  @step("filter", where="delay > 0") @secret("on/builtin", as="file")
  When some

  @step("Late", from="flights") @secret("A/b") @secret("a/${x}") @secret() @secret("")
  @secret("x", as="env:9X") @secret("x", as="env:PATH") @secret("x", as="env:") @secret("x", as="envy:X") @secret("x", as="fil")
  @secret("x", az="file") @secret("x", as="auth")
  @secret("p/q", as="file") @secret("p.q", as="file") @secret("p/q", as="file")
  @secret("one", as="env:V") @secret("two", as="env:V")
  @secret("long-long-long-long-long-long-long-long-long-long-long-long-long", as="file")
  Then late

  @step("Clean", from="flights") @secret("never/read") @secret("two", as="env:V")
  Then clean

  @sink("file://late.csv", from="Late")

  @sink("file://clean.csv", from="Clean")

  @dlq("file://rejected.jsonl") @secret("on/dlq")
