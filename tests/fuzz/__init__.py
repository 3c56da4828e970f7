"""Arbitrary input for everything that reads what strangers wrote: the properties in `targets`, and two drivers.

`make test` runs each target on a fixed set of inputs that hypothesis makes up; `make fuzz` gives each to libFuzzer,
by way of atheris, which looks for inputs that reach code no other input has reached.
"""
