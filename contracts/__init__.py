"""The contracts' ABI and bytecode (generated/*.json) as package data; the chain adapters read them from here."""
