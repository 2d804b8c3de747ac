"""What tests of a union are made of: trees as literals, drivers, and checks that any filesystem can be run on."""
