"""What all HTTP calls share: a session that sends no credentials but those of the call, calls with a total time limit, and what
a failed call means for the person at the prompt. Knows no service.
"""
