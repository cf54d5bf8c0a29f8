"""What is put into the guest's memory before it runs: kernels, initial ramdisks, firmware and device trees."""
