"""What all HTTP calls share: a session that sends only the credentials of the call, calls with a total time limit, and what a
failed call means for the user. Contains no call of a service.
"""
