"""The settings of a run: command line, environment and .env, parsed and checked. In: text that a user typed. Out: a frozen
`Settings`, or an error that names the setting, its file and its line. Knows nothing of services.
"""
