# make help lists what there is to make.

PYTHON   ?= /usr/bin/python3
BUILD    := build
VENV     := .venv
BIN      := $(VENV)/bin
SHELL    := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help
help:
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
